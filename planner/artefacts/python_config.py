"""The engine's configuration in Python."""

from __future__ import annotations

from planner.artefacts.deployed import Deployed
from planner.lmdeploy.engines import engine_facts


def python_config(deployed: Deployed) -> str:
    """A script that makes a pipeline of the plan."""
    name = engine_facts(deployed.settings.engine).config_class
    arguments = "".join(f"        {key}={value!r},\n" for key, value in deployed.engine_config().items())
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
