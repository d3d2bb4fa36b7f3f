"""The artefacts of the newest version against LMDeploy itself: its --help and its configuration classes."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys

import pytest

from planner.api.advice import advise
from planner.lmdeploy import versions

pytestmark = [
    pytest.mark.lmdeploy,
    pytest.mark.skipif("LMPLAN_WITHOUT_LMDEPLOY" in os.environ, reason="LMPLAN_WITHOUT_LMDEPLOY is set"),
]
CASES = [
    ("internlm2_5-7b", "a10", {"concurrency": 16}),
    ("internlm2_5-7b", "a10", {"concurrency": 20, "context": 16384, "num_gpus": 4}),
    ("qwen3-8b", "l4", {"concurrency": 4, "context": 40000}),
    ("qwen3-14b", "l40s", {"engine": "pytorch", "concurrency": 32}),
]


def _python(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed() -> str:
    return _python("-c", "import importlib.metadata as m; print(m.version('lmdeploy'))").strip()


@pytest.mark.parametrize(("command", "key"), [(("serve", "api_server"), "api_server"), (("chat",), "chat")])
def test_every_flag_is_in_the_help(command: tuple[str, ...], key: str, installed: str) -> None:
    text = _python("-m", "lmdeploy", *command, "--help")
    for model, gpu, wishes in CASES:
        advice = advise(model, (gpu,), lmdeploy=installed, **wishes)
        words = shlex.split({a.key: a.text for a in advice.artefacts()}[key])
        assert [word for word in words if word.startswith("--") and f"{word} " not in f"{text} "] == []


def test_the_configuration_is_accepted(installed: str) -> None:
    for model, gpu, wishes in CASES:
        advice = advise(model, (gpu,), lmdeploy=installed, **wishes)
        text = {a.key: a.text for a in advice.artefacts()}["python"]
        call = next(
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("EngineConfig")
        )
        _python("-c", f"from lmdeploy import *; print({ast.unparse(call)})")


def test_every_flag_of_the_server_is_in_the_table(installed: str) -> None:
    text = _python("-m", "lmdeploy", "serve", "api_server", "--help")
    flags = set(re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", text, flags=re.MULTILINE)) - {"--help"}
    assert flags == set(versions.options(versions.resolve(installed).rules))
