"""Command lines: the API server, a chat in the terminal, ms-swift."""

from __future__ import annotations

import shlex

from planner.artefacts.deployed import Deployed
from planner.artefacts.launch import api_server_command
from planner.lmdeploy import options
from planner.lmdeploy.versions import has_option


def api_server(deployed: Deployed) -> str:
    """`lmdeploy serve api_server ...`."""
    return api_server_command(deployed.memory, deployed.model)


def chat(deployed: Deployed) -> str:
    """`lmdeploy chat ...`; it serves one user."""
    words = ["lmdeploy", "chat", deployed.served, *options.chat_words(deployed.settings, deployed.default)]
    if deployed.remote_code and has_option("--trust-remote-code", deployed.settings.lmdeploy.rules, "chat"):
        words.append("--trust-remote-code")
    return shlex.join(words)


def swift_deploy(deployed: Deployed) -> str:
    """`swift deploy ...`, the options as ms-swift 3.5 and newer call them."""
    words = ["swift", "deploy", "--model", deployed.served, "--infer_backend", "lmdeploy"]
    return shlex.join([*words, *options.swift_words(deployed.settings, deployed.default)])
