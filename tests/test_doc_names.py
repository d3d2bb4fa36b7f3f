"""Files, modules and objects that documents and docstrings name are there, also after something has moved."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
SOURCES = [path for package in ("lmplan", "planner", "quantize") for path in (ROOT / package).rglob("*.py")]
PATH = re.compile(r"\b(?:lmplan|planner|quantize|tests|recipes|docs)/[\w./*<>-]*\w")
MODULE = re.compile(r"python -m ((?:planner|quantize|tests)[\w.]*)")
DOTTED = re.compile(r"`((?:planner|quantize)(?:\.\w+)+)(?<!\.py)`")
EXAMPLES = frozenset({"planner/data/measurements/my-gpu.json"})
"""What a reader makes."""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", [*DOCUMENTS, *SOURCES], ids=_name)
def test_what_is_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = {path for path in PATH.findall(text) if "<" not in path and "*" not in path} - EXAMPLES
    # LMDeploy's own sources are named too, such as src/turbomind/models/llama.
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert [name for name in MODULE.findall(text) if importlib.util.find_spec(name.rstrip(".")) is None] == []
    if document.name != "CHANGELOG.md":  # it also names what was
        assert [name for name in DOTTED.findall(text) if not _found(name)] == []


def _found(name: str) -> bool:
    """Whether a dotted name is a module, or an object of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_a_name_that_is_not_there_is_found_out() -> None:
    assert _found("planner.api.estimate.estimate")
    assert not _found("planner.api.estimate.guess")
    assert not _found("planner.nothing")
