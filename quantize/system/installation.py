"""The LMDeploy that is installed: how to start it, its version, companions and options. It is never imported."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from planner.errors import ChildFailedError, EnvironmentProblem
from quantize.system.child import Answer, ask

EXECUTABLE_VARIABLE: Final = "LMPLAN_LMDEPLOY"
INSTALL_HINT: Final = (
    "Install it: pip install lmdeploy; without a GPU: pip install torch --index-url "
    "https://download.pytorch.org/whl/cpu, then pip install --no-deps lmdeploy (docs/quantize.md lists the rest)"
)
# Importing torch from a cold disk takes minutes on some machines.
_ASK_TIMEOUT_S: Final = 300
_PACKAGES: Final = ("lmdeploy", "torch", "transformers", "datasets", "accelerate", "numpy", "torchvision")
_PROBE: Final = """
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+\S*")


@dataclass(frozen=True, slots=True)
class Installation:
    """An LMDeploy that can be started.

    Attributes:
        command: the words that start it; arguments follow. Empty where none is installed and one is only assumed.
        version: of LMDeploy.
        packages: name -> version of what it runs with, as far as it could be read.
        options: the ``--options`` that the command asked about lists in its --help.
    """

    command: tuple[str, ...]
    version: str
    packages: Mapping[str, str]
    options: frozenset[str]


def find_installation(environment: Mapping[str, str], command_name: str) -> Installation:
    """The LMDeploy to run: ``LMPLAN_LMDEPLOY``, the one beside this Python, the one on PATH, or this Python's module.

    Args:
        environment: the user's.
        command_name: the command of `lmdeploy lite` whose options are asked for.

    Raises:
        EnvironmentProblem: there is none, or it does not answer.
        ChildFailedError: it fails when asked for its options.
    """
    command = _find_command(environment)
    packages = _packages(command, environment)
    version = packages.get("lmdeploy") or _asked_version(command, environment)
    help_ = _ask((*command, "lite", command_name, "--help"), environment)
    options = frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_.text))
    if "--work-dir" not in options:
        raise ChildFailedError(
            f"`{' '.join(command)} lite {command_name} --help` lists no --work-dir: {help_.last_line}",
            "Run it yourself to see what is wrong with this LMDeploy",
        )
    return Installation(command, version, packages, options)


def find_interpreter(environment: Mapping[str, str]) -> str:
    """The Python that the LMDeploy to run is installed for.

    Raises:
        EnvironmentProblem: there is no LMDeploy.
    """
    return _interpreter(_find_command(environment)) or sys.executable


def _find_command(environment: Mapping[str, str]) -> tuple[str, ...]:
    given = environment.get(EXECUTABLE_VARIABLE)
    if given:
        if not os.access(given, os.X_OK) or Path(given).is_dir():
            raise EnvironmentProblem(f"{EXECUTABLE_VARIABLE} is {given}, which cannot be run", INSTALL_HINT)
        return (str(Path(given).absolute()),)
    beside = Path(sys.executable).with_name("lmdeploy")
    if os.access(beside, os.X_OK):
        return (str(beside),)
    on_path = shutil.which("lmdeploy", path=environment.get("PATH"))
    if on_path:
        return (str(Path(on_path).absolute()),)
    if find_spec("lmdeploy") is not None:
        return (sys.executable, "-m", "lmdeploy")
    raise EnvironmentProblem("LMDeploy is not installed: there is no `lmdeploy` to run", INSTALL_HINT)


def _interpreter(command: tuple[str, ...]) -> str | None:
    """The Python behind a console script, from its first lines; None where they do not say."""
    if len(command) > 1:
        return command[0]
    try:
        with Path(command[0]).open("rb") as file:
            head = file.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    # pip writes `#!/bin/sh` and `'''exec' /long/path/python "$0" "$@"` where the path is too long for the kernel.
    match = re.match(r"#!\s*(/\S*python[\d.]*)\s*$", head, re.MULTILINE) or re.search(
        r"^'''exec' \"?(/[^\"\n]*?python[\d.]*)\"? ", head, re.MULTILINE
    )
    return match[1] if match else None


def _packages(command: tuple[str, ...], environment: Mapping[str, str]) -> Mapping[str, str]:
    python = _interpreter(command)
    if python is None:
        return {}
    try:
        return _versions(python, environment)
    except (EnvironmentProblem, ChildFailedError):
        return {}


def lmdeploy_version(python: str, environment: Mapping[str, str]) -> str:
    """LMDeploy's version beside the interpreter `python`, without importing it; a local part (+cu128) is left out.

    Raises:
        EnvironmentProblem: there is no such interpreter, or no LMDeploy.
    """
    try:
        version = _versions(python, environment)["lmdeploy"]
    except EnvironmentProblem as error:
        raise EnvironmentProblem(error.message, "--python names another interpreter") from None
    except (KeyError, ChildFailedError):
        raise EnvironmentProblem(
            f"LMDeploy is not installed for {python}",
            "--python names the interpreter that it is installed for, or: pip install 'lmplan[lmdeploy]'",
        ) from None
    return version.partition("+")[0]


def _versions(python: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The versions of `_PACKAGES` that are installed for an interpreter."""
    answer = ask((python, "-c", _PROBE, *_PACKAGES), environment, _ASK_TIMEOUT_S, errors=False)
    try:
        found = json.loads(answer.last_line)
    except ValueError:
        found = None
    if answer.code or not isinstance(found, dict):
        raise ChildFailedError(f"{python} does not say what is installed for it: {answer.last_line}")
    return {str(name): str(version) for name, version in found.items()}


def _asked_version(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    # Imports may print warnings before it; the version is the last line.
    said = _ask((*command, "--version"), environment).last_line
    match = _VERSION.fullmatch(said)
    if match is None:
        raise EnvironmentProblem(f"`{' '.join(command)} --version` answers {said[:80]!r}", INSTALL_HINT)
    return match[0]


def _ask(command: tuple[str, ...], environment: Mapping[str, str]) -> Answer:
    try:
        # argparse breaks lines, and options with them, at the terminal's width.
        answer = ask(command, {**environment, "COLUMNS": "500"}, _ASK_TIMEOUT_S)
    except EnvironmentProblem as error:
        raise EnvironmentProblem(error.message, INSTALL_HINT) from None
    if answer.code:
        raise ChildFailedError(
            f"`{' '.join(command)}` fails (exit {answer.code}): {answer.last_line}",
            "LMDeploy or a package that it needs is broken; run that command to see all of it",
        )
    return answer
