"""The engine's configuration in Python."""

from __future__ import annotations

from planner.artefacts.deployed import Deployed
from planner.kinds import EngineName, assert_never
from planner.lmdeploy import options


def python_config(deployed: Deployed) -> str:
    """A script that makes a pipeline of the plan."""
    name = config_class(deployed.settings.engine)
    config = options.config(deployed.settings, deployed.default)
    arguments = "".join(f"        {key}={value!r},\n" for key, value in config.items())
    remote = "    trust_remote_code=True,\n" if deployed.remote_code else ""
    return (
        f"from lmdeploy import {name}, pipeline\n\n"
        "pipe = pipeline(\n"
        f"    {deployed.served!r},\n"
        f"    backend_config={name}(\n{arguments}    ),\n"
        f"{remote}"
        ")\n"
        'print(pipe(["Hello"]))\n'
    )


def config_class(engine: EngineName) -> str:
    """The class of `lmdeploy/messages.py` that configures an engine."""
    match engine:
        case EngineName.TURBOMIND:
            return "TurbomindEngineConfig"
        case EngineName.PYTORCH:
            return "PytorchEngineConfig"
        case _:
            assert_never(engine)
