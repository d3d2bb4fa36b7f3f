"""What surrounds a run: the clock, the home folder, the current folder, and numbers of thousands of digits."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from planner.cli.main import run
from planner.clock import today
from planner.errors import UsageError
from planner.lmdeploy import versions
from tests.commands import Lmplan

ESTIMATE = ("estimate", "--model", "qwen3-8b", "--gpu", "a10")
REPORT = ("report", "--model", "qwen3-8b", "--gpu", "a10", "--format", "json")


@pytest.mark.parametrize(
    "seconds",
    ["yesterday", "-1", "1.5", "1e3", " 1", "²", "٣", "99999999999999999", "9" * 400, "9" * 5000, "253402300800"],
)
def test_a_clock_that_is_none_is_refused(lmplan_here: Lmplan, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    done = lmplan_here(*REPORT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lmplan: SOURCE_DATE_EPOCH is '") and len(done.stderr) < 200


@pytest.mark.parametrize(
    ("seconds", "day"), [("0", "1970-01-01"), ("1700000000", "2023-11-14"), ("253402300799", "9999-12-31")]
)
def test_a_clock_stands_still(monkeypatch: pytest.MonkeyPatch, seconds: str, day: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    assert today() == day
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert today() >= "2026"


def test_no_home_and_no_entry_for_the_user(
    lmplan_here: Lmplan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "LMPLAN_CONFIG_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def nobody(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert lmplan_here(*ESTIMATE).returncode in (0, 8)
    monkeypatch.setenv("LMPLAN_LMDEPLOY", "/nonexistent")
    dry = ("quantize", "tiny-llama", "--dry-run", "--set")
    done = lmplan_here(*dry, "calibration={dataset: wikitext2, samples: 2, seqlen: 64}")
    assert done.returncode == 5 and "wikitext2 is not in the cache" in done.stderr
    done = lmplan_here(*dry, "model=~/x", "--set", "draw=false")
    assert done.returncode == 2 and "'~/x' does not exist" in done.stderr


@pytest.mark.parametrize("words", [("quantize", "tiny-llama", "--dry-run"), ("quantize", "tiny-llama"), ESTIMATE])
def test_a_folder_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    here, folder = Path.cwd(), tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    try:
        code = run(list(words))
    finally:
        os.chdir(here)
    said = capsys.readouterr()
    if words[0] == "estimate":
        assert code in (0, 8)
        return
    assert (code, said.err.splitlines()) == (
        5,
        ["lmplan: the current folder was deleted or may not be searched", "  Start in another folder"],
    )


DIGITS = ("9" * 40, "9" * 400, "9" * 5000)


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize(
    "option",
    ["--lmdeploy 0.{}", "--lmdeploy {}", "--free {}GiB", "--free {}", "--context {}", "--tp {}", "--session-len {}"],
)
def test_options_of_thousands_of_digits(lmplan_here: Lmplan, option: str, digits: str) -> None:
    done = lmplan_here(*ESTIMATE, *option.format(digits).split())
    if option.startswith("--lmdeploy") and len(digits) == 40:
        assert "newer than what lmplan knows" in done.stdout
        return
    assert done.returncode == 2 and "Traceback" not in done.stderr
    # click repeats what it cannot convert
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("option", ["latency-ms", "first-token-ms", "concurrency", "gpus", "images"])
def test_a_load_of_thousands_of_digits(lmplan_here: Lmplan, option: str, digits: str) -> None:
    words = ("recommend", "--model", "qwen3-8b", "--gpu", "a10", f"--{option}", digits)
    done = lmplan_here(*words)
    if option.endswith("-ms") and len(digits) == 40:
        assert done.returncode in (0, 3)  # 10**40 ms is a time
        return
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("digits", DIGITS)
def test_a_fleet_of_thousands_of_digits(lmplan_here: Lmplan, tmp_path: Path, digits: str) -> None:
    for key in ("latency_ms", "concurrency", "copies"):
        (tmp_path / "fleet.yaml").write_text(
            f"workloads: [{{model: qwen3-8b, {key}: {digits}}}]\nmachines: [{{gpu: h200, count: 1}}]\n"
        )
        done = lmplan_here("sweep", "fleet.yaml")
        expected = (0, 3) if key == "latency_ms" and len(digits) == 40 else (2,)
        assert done.returncode in expected, done.stderr


def test_a_version_is_of_a_length_that_anybody_writes() -> None:
    with pytest.raises(UsageError, match="longer than any version"):
        versions.resolve("0.18.0+" + "a" * 200)


@pytest.mark.parametrize(
    "value",
    ["*a", "&a [*a, *a]", "!!python/name:os.system", "!!timestamp z", "[" * 5000, "x" * 70_000, "\x1b[2J: ["],
)
def test_values_of_a_recipe_that_were_typed(lmplan_here: Lmplan, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Aliases in an environment variable took 2.4 GB once."""
    done = lmplan_here("quantize", "tiny-llama", "--dry-run", "--set", f"seed={value}")
    assert done.returncode == 2 and done.stderr.startswith("lmplan: --set seed")
    monkeypatch.setenv("LMPLAN_RECIPE_SEED", value)
    done = lmplan_here("quantize", "tiny-llama", "--dry-run")
    assert done.returncode == 2 and done.stderr.startswith("lmplan: LMPLAN_RECIPE_SEED")
    assert len(done.stderr.splitlines()) <= 2 and len(done.stderr) < 400 and done.stderr.replace("\n", "").isprintable()
