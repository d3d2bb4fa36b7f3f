"""`lmplan quantize` against a fake LMDeploy: good runs, every bad end, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest

from tests.commands import lmplan_after

MANIFEST_SCHEMA = Path(__file__).parents[2] / "quantize/data/manifest.schema.json"
STAGING = "tiny-llama-w4a16.lmplan-staging"
OUTPUT = "tiny-llama-w4a16"
LMPLAN = lmplan_after(
    "from quantize.checkpoint import synthetic; synthetic._POOL_VALUES = 1009; "  # a million take seconds to draw
    "from quantize.system import child; child._GRACE_S = 1.0"
)


def wait_for(path: Path, seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LMPLAN, "quantize", "tiny-llama", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def test_good_run_leaves_a_checked_output_and_nothing_else(fake, lmplan, tmp_path):
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 0, done.stderr
    output = tmp_path / OUTPUT
    assert {path.name for path in output.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "lmplan.json", "lmplan.log", "LMPLAN_SYNTHETIC",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", OUTPUT]
    manifest = json.loads((output / "lmplan.json").read_text())
    jsonschema.validate(manifest, json.loads(MANIFEST_SCHEMA.read_text()))
    assert manifest["checkpoint"]["found_bytes"] == manifest["checkpoint"]["predicted_bytes"]
    assert manifest["host"]["found_bytes"] > 0
    assert manifest["packages"]["lmdeploy"] == "0.18.0"
    assert "predicted (+0.0000%)" in done.stdout
    assert "not measured" in done.stdout
    assert (output / "model.safetensors").stat().st_mode & 0o044


def test_progress_is_plain_lines_on_stderr(fake, lmplan):
    done = lmplan("quantize", "tiny-llama")
    assert "packing" in done.stderr and "elapsed" in done.stderr
    assert "\x1b" not in done.stderr
    assert "packing" not in done.stdout.splitlines()[0]


def test_second_run_does_nothing(fake, lmplan, tmp_path):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    before = (tmp_path / OUTPUT / "lmplan.json").stat().st_mtime_ns
    fake(fail=1)
    again = lmplan("quantize", "tiny-llama")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert (tmp_path / OUTPUT / "lmplan.json").stat().st_mtime_ns == before


def test_another_recipe_for_the_same_output_is_refused(fake, lmplan):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    other = lmplan("quantize", "tiny-llama", "--set", "seed=1")
    assert other.returncode == 2
    assert "is not empty" in other.stderr


def test_dry_run_writes_nothing(fake, lmplan, tmp_path):
    done = lmplan("quantize", "tiny-llama", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_statistics_are_kept_by_choice(fake, lmplan, tmp_path):
    assert lmplan("quantize", "tiny-llama", "--set", "keep_statistics=true").returncode == 0
    assert (tmp_path / OUTPUT / "inputs_stats.pth").exists()


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"fail": 1}, "exit 1): RuntimeError: broken"),
        ({"fail": 2, "error": "lmdeploy: error: bad argument"}, "exit 2): lmdeploy: error: bad argument"),
        ({"fail": -9}, "was killed by SIGKILL"),
        ({"fail": -11}, "was killed by SIGSEGV"),
        ({"fail": 1, "error": "torch.OutOfMemoryError: CUDA out of memory. Tried"}, "samples are on the GPU at once"),
        ({"fail": 1, "error": "OSError: [Errno 28] No space left on device"}, "Make room on the disk"),
        ({"fail": 1, "error": "AssertionError: assert torch.isnan(p).sum() == 0"}, "overflow float16"),
    ],
)
def test_failure_of_lmdeploy_gives_its_last_line_and_the_log(fake, lmplan, tmp_path, behaviour, said):
    fake(**behaviour)
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 6
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    log = tmp_path / STAGING / "lmplan.log"
    assert str(log) in done.stderr and "Loading calibrate dataset" in log.read_text()
    assert not (tmp_path / OUTPUT).exists()


def test_the_run_after_a_failure_cleans_up(fake, lmplan, tmp_path):
    fake(fail=1)
    assert lmplan("quantize", "tiny-llama").returncode == 6
    assert (tmp_path / STAGING).exists()
    fake()
    assert lmplan("quantize", "tiny-llama").returncode == 0
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("nan", "scales are NaN"),
        ("inf", "scales are infinite"),
        ("zero", "scales are zero"),
        ("truncated", "is truncated"),
        ("no_tokenizer", "there is no tokenizer"),
        ("wrong_shape", "missing"),
        ("plain_config", "no quantization_config"),
    ],
)
def test_result_that_fails_inspection_is_kept_in_staging(fake, lmplan, tmp_path, flaw, said):
    fake(**{flaw: True})
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 7, done.stderr
    assert said in done.stderr
    assert not (tmp_path / OUTPUT).exists()
    assert (tmp_path / STAGING / "result" / "config.json").exists()
    assert said in (tmp_path / STAGING / "problems.txt").read_text()


def test_a_megabyte_on_one_line(fake, lmplan, tmp_path):
    fake(long_line=2**20)
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / OUTPUT / "lmplan.log").stat().st_size > 2**20
    assert len(done.stderr) < 10_000


def test_silence_ends_the_run(fake, lmplan):
    fake(silent=60)
    begun = time.monotonic()
    done = lmplan("quantize", "tiny-llama", "--set", "silence_s=1")
    assert done.returncode == 6
    assert "printed nothing for 1 s" in done.stderr
    assert time.monotonic() - begun < 40


def test_grandchild_that_holds_the_output_does_not_hang_the_run(fake, lmplan):
    fake(grandchild=True)
    begun = time.monotonic()
    assert lmplan("quantize", "tiny-llama").returncode == 0
    assert time.monotonic() - begun < 40


@pytest.mark.parametrize(
    ("number", "stubborn"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_signals_end_the_whole_group(fake, tmp_path, number, stubborn):
    fake(silent=60, touch=str(tmp_path / "pid"), stubborn=stubborn)
    process = start(tmp_path)
    child = int(wait_for(tmp_path / "pid"))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert number.name in stderr and "Traceback" not in stderr
    assert not is_alive(child)
    assert not (tmp_path / OUTPUT).exists()


def test_kill_9_takes_the_child_along_and_the_next_run_cleans_up(fake, lmplan, tmp_path):
    fake(silent=60, touch=str(tmp_path / "pid"))
    process = start(tmp_path)
    child = int(wait_for(tmp_path / "pid"))
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(child)
    assert (tmp_path / STAGING).exists() and not (tmp_path / OUTPUT).exists()
    fake()
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / STAGING).exists()


def test_two_at_once_the_second_refuses(fake, lmplan, tmp_path):
    fake(silent=60, touch=str(tmp_path / "pid"))
    process = start(tmp_path)
    try:
        wait_for(tmp_path / "pid")
        second = lmplan("quantize", "tiny-llama")
        assert second.returncode == 5
        assert "another run is at work" in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_full_disk_for_the_log(fake, tmp_path):
    # A limit on the size of files stands for a full disk: writing the log fails in lmplan itself.
    fake(long_line=40 * 2**20)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 40960; trap "" XFSZ; exec "$@"', "sh", *LMPLAN, "quantize", "tiny-llama"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / OUTPUT).exists()


def test_leftover_beside_a_finished_output_is_cleaned(fake, lmplan, tmp_path):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    staging = tmp_path / STAGING
    staging.mkdir()
    (staging / "LMPLAN_STAGING").write_text("left")
    assert lmplan("quantize", "tiny-llama").returncode == 0
    assert not staging.exists()


def test_a_foreign_folder_of_the_staging_name_is_left_alone(fake, lmplan, tmp_path):
    staging = tmp_path / STAGING
    staging.mkdir()
    (staging / "mine.txt").write_text("mine")
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 2
    assert (staging / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("/", "cannot be made"),
        (".", "is not empty"),
        ("file/out", "cannot be made: Not a directory"),
        ("x" * 300, "cannot be made: File name too long"),
        ("file", "is not empty"),
    ],
)
def test_outputs_that_cannot_be(fake, lmplan, tmp_path, output, said):
    (tmp_path / "file").write_text("")
    done = lmplan("quantize", "tiny-llama", "--set", f"output={output}")
    assert done.returncode in (2, 5)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_home_is_spelled_out(fake, lmplan, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lmplan("quantize", "tiny-llama", "--set", "output=~/mine").returncode == 0
    assert (tmp_path / "mine" / "lmplan.json").exists()
    assert "nothing to do" in lmplan("quantize", "tiny-llama", "--set", "output=~/mine").stdout
