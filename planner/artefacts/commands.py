"""Command lines: the API server, a chat in the terminal, ms-swift."""

from __future__ import annotations

import shlex

from planner.artefacts.deployed import Deployed
from planner.artefacts.launch import api_server_command
from planner.lmdeploy.versions import has_option


def api_server(deployed: Deployed) -> str:
    """`lmdeploy serve api_server ...`."""
    return api_server_command(deployed.memory, deployed.model)


def chat(deployed: Deployed) -> str:
    """`lmdeploy chat ...` with the options that it knows in this version; it serves one user."""
    version = deployed.settings.lmdeploy.rules
    words = ["lmdeploy", "chat", deployed.served, "--backend", deployed.settings.engine]
    for name, value in deployed.engine_config().items():
        option = f"--{name.replace('_', '-')}"
        if has_option(option, version, "chat") and not (name == "quant_policy" and value == 0):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if deployed.remote_code and has_option("--trust-remote-code", version, "chat"):
        words.append("--trust-remote-code")
    return shlex.join(words)


def swift_deploy(deployed: Deployed) -> str:
    """`swift deploy ...`, the options as ms-swift 3.5 and newer call them (its command line reference, LMDeploy)."""
    config = deployed.engine_config()
    words = ["swift", "deploy", "--model", deployed.served, "--infer_backend", "lmdeploy"]
    for name in ("tp", "session_len", "cache_max_entry_count", "quant_policy"):
        if name in config:
            value = config[name]
            words += [f"--lmdeploy_{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
