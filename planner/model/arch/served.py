"""What LMDeploy does with an architecture that has no reader, from its version table: a refusal is to be true."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from planner.data import read_toml
from planner.errors import UnsupportedModelError, perhaps
from planner.kinds import EngineName

_UNTIL: Final = re.compile(r"<([\d.]+)")


def refuse(architecture: str, label: str, planned: Iterable[str]) -> UnsupportedModelError:
    """The refusal of an architecture without a reader: LMDeploy's own, or that lmplan does not plan what it serves.

    Args:
        architecture: the class that the config names.
        label: what people call the family; empty where lmplan has no name for it.
        planned: the architectures that have a reader, for the hint.
    """
    named = f"{architecture} ({label})" if label else architecture
    table = read_toml("lmdeploy.toml")
    newest = table["newest"]
    engines = _engines_now(architecture, table)
    close = perhaps(architecture, planned)
    hint = f"{close}. {_HINT}" if close else _HINT
    if engines:
        served = " and ".join(engine.in_words for engine in engines)
        return UnsupportedModelError(
            f"lmplan does not plan {named} yet; LMDeploy {newest} serves it with {served}", hint
        )
    last = _last_version(architecture, table)
    if last:
        return UnsupportedModelError(
            f"LMDeploy {newest} does not serve {named}; {EngineName.TURBOMIND.heading} did before {last}, which lmplan "
            "does not plan yet",
            hint,
        )
    gone = architecture in table["pytorch"]["architectures"]["notes"]["removed"]
    dropped = f"; {EngineName.PYTORCH.in_words} had it and dropped it" if gone else ""
    return UnsupportedModelError(f"LMDeploy {newest} does not serve {named}{dropped}", hint)


_HINT: Final = "Planned: LlamaForCausalLM, Qwen3ForCausalLM and the others of `lmplan models`"


def _engines_now(architecture: str, table: dict[str, Any]) -> list[EngineName]:
    found = []
    for entry in table["turbomind"]["architectures"]["list"]:
        if entry["name"] == architecture and not _UNTIL.search(entry["versions"][-1]):
            found.append(EngineName.TURBOMIND)
    if architecture in table["pytorch"]["architectures"]["list"]:
        found.append(EngineName.PYTORCH)
    return found


def _last_version(architecture: str, table: dict[str, Any]) -> str:
    """The first version of TurboMind that no longer takes it; empty where none ever did."""
    for entry in table["turbomind"]["architectures"]["list"]:
        if entry["name"] == architecture:
            until = _UNTIL.search(entry["versions"][-1])
            return until[1] if until else ""
    return ""
