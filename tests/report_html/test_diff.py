"""What changed between two plans, and plans that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli.main import run
from planner.report.plan_diff import Change, diff, read_plan

Capture = pytest.CaptureFixture[str]
WORDS = ["--model", "internlm2_5-7b", "--gpu", "a10", "--gpus", "1"]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plans")
    old, new = folder / "old.json", folder / "new.json"
    assert run(["report", *WORDS, "--concurrency", "16", "-o", str(old)]) == 0
    assert run(["report", *WORDS, "--concurrency", "8", "-o", str(new)]) == 0
    return old, new


def test_what_changed_is_listed_and_nothing_else(plans: tuple[Path, Path], capsys: Capture) -> None:
    old, new = plans
    changes = {c.where: c for c in diff(read_plan(old), read_plan(new))}
    assert (changes["decision.load.concurrency"].old, changes["decision.load.concurrency"].new) == (16, 8)
    assert changes["decision.load.concurrency"].difference() == "-8 (-50.0%)"
    assert "provenance.config_sha256" not in changes
    assert {"decision.chosen.settings.weights", "decision.chosen.settings.quant_policy"} & set(changes)
    assert run(["report", "--diff", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert "| decision.load.concurrency" in out
    assert "decode_tokens_per_s.low" not in out
    assert "derived from these; --format json lists all" in out


def test_bytes_are_gib_and_signs_say_which_way() -> None:
    old = {"schema": "lmplan.report/1", "total_bytes": 2 * 2**30, "users": 3, "ok": True, "ratio": 0.5}
    new = {"schema": "lmplan.report/1", "total_bytes": 3 * 2**30, "users": 4, "ok": False, "extra": "x"}
    found = {c.where: c for c in diff(old, new)}
    assert found["total_bytes"].difference() == "+1.00 GiB (+50.0%)"
    assert (found["ok"].old_text(), found["ok"].new_text(), found["ok"].difference()) == ("yes", "no", "")
    assert (found["extra"].old_text(), found["ratio"].new_text()) == ("-", "-")


def test_a_plan_does_not_differ_from_itself(plans: tuple[Path, Path], capsys: Capture) -> None:
    assert run(["report", "--diff", str(plans[0]), str(plans[0])]) == 0
    assert capsys.readouterr().out == "Nothing changed.\n"


@pytest.mark.parametrize("form", ["html", "json", "markdown"])
def test_every_form(plans: tuple[Path, Path], form: str, capsys: Capture) -> None:
    assert run(["report", "--diff", str(plans[0]), str(plans[1]), "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        rows = json.loads(out)["changes"]
        assert {"where": "decision.load.concurrency", "old": 16, "new": 8} in rows
    assert out.startswith("<!doctype html>") == (form == "html")


def test_estimates_and_recommendations_are_compared_too(tmp_path: Path, capsys: Capture) -> None:
    for name, ratio in (("a", "0.5"), ("b", "0.6")):
        words = ["estimate", "--model", "qwen3-8b", "--gpu", "l4", "--cache-max-entry-count", ratio, "--format", "json"]
        assert run(words) == 0
        (tmp_path / name).write_text(capsys.readouterr().out)
    assert run(["report", "--diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "kv_cache.tokens" in out and "per_gpu.terms.kv_cache.bytes" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list; expected an object"),
        ('{"schema": 3}', "is not a plan from lmplan"),
        (
            '{"schema": "lmplan.recommend/1", "model": {}}',
            "is not a complete lmplan.recommend/1: it lacks load, options",
        ),
        ('{"schema": "other/1"}', "is not a plan from lmplan"),
        ('{"schema": "lmplan.report/0"}', "has the form lmplan.report/0, which this lmplan does not read"),
        ('{"schema": "lmplan.report/2"}', "has the form lmplan.report/2, which this lmplan does not read"),
        ('{"schema": "lmplan.measurement/1"}', "has the form lmplan.measurement/1"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    plans: tuple[Path, Path], content: str, says: str, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "other.json"
    other.write_text(content)
    assert run(["report", "--diff", str(other), str(plans[0])]) == 2
    assert says in capsys.readouterr().err


def test_two_kinds_are_refused(plans: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    assert run(["recommend", *WORDS, "--format", "json"]) == 0
    other = tmp_path / "other.json"
    other.write_text(capsys.readouterr().out)
    assert run(["report", "--diff", str(other), str(plans[0])]) == 2
    assert "of different kinds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpu", "a10"], "--model and --gpu are needed"),
        (["--model", "qwen3-8b"], "--model and --gpu are needed"),
        (["--diff", "missing.json", "missing.json"], "cannot read missing.json"),
        ([*WORDS, "-o", "/nowhere/plan.html"], "cannot write /nowhere/plan.html"),
    ],
)
def test_bad_input_is_one_line(words: list[str], says: str, capsys: Capture) -> None:
    assert run(["report", *words]) == 2
    assert says in capsys.readouterr().err


def test_the_ending_decides_the_form(tmp_path: Path) -> None:
    starts: dict[str, Any] = {"a.html": "<!doctype", "a.md": "## ", "a.json": "{"}
    for name, start in starts.items():
        assert run(["report", *WORDS, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(start)
    assert run(["report", *WORDS, "--concurrency", "900", "-o", str(tmp_path / "b.html")]) == 3
    assert (tmp_path / "b.html").read_text().startswith("<!doctype")


def test_small_sizes_and_large_numbers_are_readable() -> None:
    block = Change(("kv_cache", "block_bytes"), 8 * 2**20, 4 * 2**20)
    assert (block.old_text(), block.difference()) == ("8.0 MiB", "-4.0 MiB (-50.0%)")
    assert Change(("kv_cache", "tokens"), 33600, 63936).difference() == "+30,336 (+90.3%)"


def test_the_schema_is_printed(capsys: Capture) -> None:
    assert run(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "lmplan report"
