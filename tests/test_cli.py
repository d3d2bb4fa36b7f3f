"""The command line: exit codes, one clear line for every problem, and what each format holds."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from planner.cli.main import COMMANDS, lmplan, run
from planner.units import GIB
from tests.commands import LMPLAN

GOOD = ("estimate", "--model", "internlm2_5-7b", "--gpu", "a100-24g")

Capture = pytest.CaptureFixture[str]


def estimate(*options: str, model: str = "internlm2_5-7b", gpu: str = "a100-24g") -> int:
    return run(["estimate", "--model", model, "--gpu", gpu, *options])


def complaint(capsys: Capture) -> tuple[str, str]:
    """The message and the hint; nothing else may have been printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 1 <= len(lines) <= 2, captured.err
    assert lines[0].startswith("lmplan: ")
    assert not lines[0].endswith("..")
    if len(lines) == 1:
        return lines[0], ""
    assert lines[1].startswith("  ")
    return lines[0], lines[1].strip()


# --- help ------------------------------------------------------------------------------------------------------------


def test_no_command_prints_the_help(capsys: Capture) -> None:
    assert run([]) == 0
    assert "Usage: lmplan" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command: str, flag: str, capsys: Capture) -> None:
    assert run([command, flag]) == 0
    out = capsys.readouterr().out
    assert f"Usage: lmplan {command}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does_or_what_it_takes(command: str) -> None:
    found = lmplan.get_command(click.Context(lmplan), command)
    assert found is not None
    assert found.help
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            choices = isinstance(parameter.type, click.Choice)
            assert parameter.help or choices, f"lmplan {command} {parameter.opts[0]} has no help"


def test_the_list_of_commands_is_complete(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert name in out
        assert text in out


def test_the_version(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lmplan, version ")


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_what_serves_exits_with_0(capsys: Capture) -> None:
    assert run(GOOD) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "Serves: holds" in captured.out


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_what_does_not_fit_exits_with_3_and_is_reported_all_the_same(form: str, capsys: Capture) -> None:
    assert estimate("--format", form, model="llama-3.1-70b") == 3
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "ies while loading" in captured.out


@pytest.mark.parametrize("model", ["minicpm-v-2_6", "deepseek-vl-1.3b", "glm4v-9b", "qwen-vl-chat"])
def test_a_family_that_comes_later_is_named_and_exits_with_4(model: str, capsys: Capture) -> None:
    assert estimate(model=model) == 4
    message, _ = complaint(capsys)
    assert "not plan" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--weights", "w4a16", "--lmdeploy", "0.5.3"), "needs compute capability 7.5"),
        (("--engine", "pytorch", "--weights", "w4a16"), ""),
    ],
)
def test_w4a16_on_a_v100(options: tuple[str, ...], expected: str, capsys: Capture) -> None:
    code = estimate(*options, gpu="v100-32g")
    assert code == (4 if expected else 0)
    assert expected in capsys.readouterr().err


# --- bad input -------------------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "tp that does not divide the hidden size": (("--tp", "3"), "does not divide the hidden size 4096"),
    "tp that does not fit the heads": (("--tp", "64"), "does not divide the 32 attention heads"),
    "tp 0": (("--tp", "0"), "--tp is 0; expected 1"),
    "negative tp": (("--tp", "-2"), "--tp is -2"),
    "tp of words": (("--tp", "two"), "'two' is not a valid integer"),
    "ratio 0": (("--cache-max-entry-count", "0"), "expected a share between 0 and 1"),
    "ratio 1": (("--cache-max-entry-count", "1"), "expected a share between 0 and 1"),
    "ratio above 1": (("--cache-max-entry-count", "1.5"), "expected a share between 0 and 1"),
    "negative ratio": (("--cache-max-entry-count", "-0.5"), "expected a share between 0 and 1"),
    "ratio nan": (("--cache-max-entry-count", "nan"), "expected a share between 0 and 1"),
    "ratio inf": (("--cache-max-entry-count", "inf"), "expected a share between 0 and 1"),
    "unknown quant policy": (("--quant-policy", "3"), "'3' is not one of '0', '4', '8'"),
    "unknown engine": (("--engine", "vllm"), "'vllm' is not one of 'turbomind', 'pytorch'"),
    "unknown dtype": (("--dtype", "int8"), "'int8' is not one of"),
    "unknown weights": (("--weights", "w8a8"), "'w8a8' is not one of"),
    "unknown format": (("--format", "xml"), "'xml' is not one of"),
    "batch 0": (("--max-batch-size", "0"), "--max-batch-size is 0"),
    "absurd batch": (("--max-batch-size", "999999999999"), "--max-batch-size is 999999999999"),
    "session 0": (("--session-len", "0"), "--session-len is 0"),
    "prefill 0": (("--max-prefill-token-num", "0"), "--max-prefill-token-num is 0"),
    "context 0": (("--context", "0"), "--context is 0"),
    "context beyond the session": (("--context", "999999"), "expected 1 to the session length of 32768"),
    "free without a unit": (("--free", "24"), "'24' is not a size with its unit, e.g. 24GiB"),
    "free of an unknown unit": (("--free", "24pints"), "unknown unit 'pints'"),
    "free 0": (("--free", "0GiB"), "is not between one byte"),
    "more free than there is": (("--free", "50GiB"), "expected at most the 25759318016 bytes"),
    "absurd free": (("--free", f"{'9' * 400}GiB"), "is not between one byte"),
    "a version that is none": (("--lmdeploy", "newest"), "is not a version"),
    "a version too old": (("--lmdeploy", "0.2.0"), "older than what lmplan knows"),
    "an engine without rules": (("--engine", "pytorch", "--lmdeploy", "0.5.3"), "its rules are known for 0.18.0"),
    "sm beside a name": (("--sm", "80"), "the compute capability of a100-24g is known"),
    "unknown option": (("--quantpolicy", "8"), "No such option '--quantpolicy'"),
    "an argument too much": (("extra",), "unexpected extra argument"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_exits_with_2(case: str, capsys: Capture) -> None:
    options, expected = BAD_OPTIONS[case]
    assert estimate(*options) == 2
    message, _ = complaint(capsys)
    assert expected in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("estimate",), "Missing option '--model'"),
        (("estimate", "--model", "llama-3.1-8b"), "Missing option '--gpu'"),
        (("--nonsense",), "No such option '--nonsense'"),
    ],
)
def test_a_missing_or_unknown_option_points_to_the_help(
    arguments: tuple[str, ...], expected: str, capsys: Capture
) -> None:
    assert run(arguments) == 2
    message, hint = complaint(capsys)
    assert expected in message
    assert "--help" in hint


def test_an_unknown_command_names_the_nearest(capsys: Capture) -> None:
    assert run(["estimat"]) == 2
    assert complaint(capsys) == ("lmplan: unknown command 'estimat'", "Perhaps you meant estimate")


@pytest.mark.parametrize(
    ("model", "near"),
    [("internlm2_5-7", "internlm2_5-7b"), ("lama-3.1-8b", "llama-3.1-8b"), ("Qwen3_8BB", "qwen3-8b")],
)
def test_an_unknown_model_names_the_nearest(model: str, near: str, capsys: Capture) -> None:
    assert estimate(model=model) == 2
    message, hint = complaint(capsys)
    assert "unknown model" in message
    assert near in hint


@pytest.mark.parametrize(("gpu", "near"), [("a100-25g", "a100-24g"), ("rtx4091", "rtx-4090"), ("H20O", "h200")])
def test_an_unknown_gpu_names_the_nearest(gpu: str, near: str, capsys: Capture) -> None:
    assert estimate(gpu=gpu) == 2
    message, hint = complaint(capsys)
    assert "unknown GPU" in message
    assert near in hint


# --- GPUs ------------------------------------------------------------------------------------------------------------


def test_a_size_needs_the_compute_capability(capsys: Capture) -> None:
    assert estimate(gpu="24GiB") == 2
    message, hint = complaint(capsys)
    assert "needs --sm" in message
    assert "--sm 80" in hint


@pytest.mark.parametrize("gpu", ["24", "24g", "24 Gi"])
def test_a_size_needs_a_unit(gpu: str, capsys: Capture) -> None:
    assert estimate("--sm", "80", gpu=gpu) == 2
    message, hint = complaint(capsys)
    assert "has no unit" in message
    assert "24GiB is 24 x 2**30 bytes" in hint


@pytest.mark.parametrize("sm", ["8", "60", "800", "-1"])
def test_a_compute_capability_that_no_gpu_has(sm: str, capsys: Capture) -> None:
    assert estimate("--sm", sm, gpu="24GiB") == 2
    assert f"--sm is {sm}" in complaint(capsys)[0]


def test_gib_and_gb_are_different_sizes(capsys: Capture) -> None:
    totals = {}
    for gpu in ("24GiB", "24GB", "24 gib"):
        assert estimate("--sm", "80", "--format", "json", gpu=gpu) in (0, 3)
        totals[gpu] = json.loads(capsys.readouterr().out)["gpu"]["memory_total_bytes"]
    assert totals == {"24GiB": 24 * GIB, "24GB": 24 * 10**9, "24 gib": 24 * GIB}


def test_a_neighbour_leaves_less(capsys: Capture) -> None:
    assert estimate("--free", "20GiB", "--format", "json") in (0, 3)
    gpu = json.loads(capsys.readouterr().out)["gpu"]
    assert gpu["free_bytes"] == 20 * GIB < gpu["memory_total_bytes"]


def test_a_gpu_without_bf16_runs_fp16_and_says_so(capsys: Capture) -> None:
    assert estimate("--format", "json", gpu="v100-32g") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["settings"]["dtype"] == "float16"
    assert plan["model"]["dtype"] == "bfloat16"
    assert any("fp16 will be used" in note for note in plan["notes"])


@pytest.mark.parametrize("command", ["models", "gpus"])
def test_catalogs_as_json(command: str, capsys: Capture) -> None:
    assert run([command, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 30
    assert len({row["name"] for row in rows}) == len(rows)


@pytest.mark.parametrize(("command", "word"), [("models", "internvl2-26b"), ("gpus", "a100-24g")])
def test_catalogs_as_tables_can_be_narrowed(command: str, word: str, capsys: Capture) -> None:
    assert run([command, word]) == 0
    out = capsys.readouterr().out
    assert word in out
    assert len(out.splitlines()) == 3


# --- the process -----------------------------------------------------------------------------------------------------


def test_a_terminal_without_block_characters() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*LMPLAN, *GOOD], capture_output=True, text=True, check=False, env=environment, errors="replace"
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Serves" in done.stdout


def test_a_reader_that_goes_away() -> None:
    code = f"{shlex.join(LMPLAN)} models | head -n 1"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("name")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("words", [GOOD, ("models",), ("--help",)])
def test_a_full_disk_is_one_line(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*LMPLAN, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.splitlines()[0] == "lmplan: cannot write the output: No space left on device"
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("command", [("report", "--model", "qwen3-8b", "--gpu", "a10"), ("sweep", "docs/fleet.yaml")])
def test_an_ending_of_no_format_is_refused(command, capsys, tmp_path):
    assert run([*command, "-o", str(tmp_path / "plan.pdf")]) == 2
    message, hint = complaint(capsys)
    assert "the ending .pdf names no format" in message
    assert ".html" in hint
    assert not (tmp_path / "plan.pdf").exists()


def test_diff_and_a_model_do_not_go_together(capsys):
    assert run(["report", "--model", "qwen3-8b", "--gpu", "a10", "--diff", "old.json", "new.json"]) == 2
    assert "--diff" in complaint(capsys)[0]


def test_help_of_the_command_is_named_where_an_option_lacks_its_value(capsys):
    assert run(["report", "--diff", "old.json"]) == 2
    assert complaint(capsys)[1] == "`lmplan report --help` lists the options"


@pytest.mark.parametrize("command", ["models", "gpus"])
def test_a_catalog_without_the_name_says_so(command, capsys):
    assert run([command, "nothing-like-it"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no name contains 'nothing-like-it'" in captured.err


def test_a_plan_and_settings_do_not_go_together(capsys, tmp_path):
    assert run([*GOOD, "--format", "json"]) == 0
    (tmp_path / "plan.json").write_text(capsys.readouterr().out)
    assert run(["measure", "--plan", str(tmp_path / "plan.json"), "--tp", "2", "--quant-policy", "8"]) == 2
    assert complaint(capsys)[0] == "lmplan: --plan brings its own --tp, --quant-policy"
