"""Reports as files, compared byte for byte. `LMPLAN_WRITE_GOLDEN=1 pytest tests/report` writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from planner import estimate
from planner.api.estimate import Plan
from planner.report import jsonform, markdown, table

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("LMPLAN_WRITE_GOLDEN") == "1"


@cache
def plan(name: str) -> Plan:
    if name == "serves":
        return estimate("internlm2_5-7b", "a100-24g")
    if name == "needs-w4a16":
        return estimate("internvl2-26b", "rtx-4090", context=4096)
    assert name == "measured-tp2-awq", name
    return estimate("qwen3-8b", "h200", free="40GiB", tp=2, weights="w4a16", quant_policy=8, session_len=16384)


FORMS: dict[str, Callable[[Plan], str]] = {
    "txt": table.render,
    "explain.txt": table.explain,
    "md": markdown.render,
    "json": jsonform.render,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["serves", "needs-w4a16", "measured-tp2-awq"])
def test_a_report_is_the_golden_one(name: str, form: str) -> None:
    text = FORMS[form](plan(name))
    path = GOLDEN / f"{name}.{form}"
    if WRITE:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; LMPLAN_WRITE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["serves", "needs-w4a16", "measured-tp2-awq"])
def test_a_report_ends_in_one_newline_and_has_no_trailing_spaces(name: str, form: str) -> None:
    text = FORMS[form](plan(name))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("name", ["serves", "needs-w4a16", "measured-tp2-awq"])
def test_the_table_stays_within_a_terminal(name: str) -> None:
    """The command line and what describes the plan may be longer: they are copied, not read across."""
    body = table.render(plan(name)).split("\n\n", 1)[1]
    long = [line for line in body.splitlines() if len(line) > 110 and "lmdeploy serve" not in line]
    assert long == []


def test_golden_files_are_all_used() -> None:
    used = {f"{name}.{form}" for name in ("serves", "needs-w4a16", "measured-tp2-awq") for form in FORMS}
    assert {path.name for path in GOLDEN.iterdir()} == used
