"""What `lmplan measure` needs and does not find, and whom else it finds on the GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.measure.conftest import (
    MODEL,
    VERSIONS,
    WORDS,
    as_planned,
    file_of,
    planned,
    wait_for,
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("measure",), "nothing to measure"),
        ((*WORDS, "--limit", "200GiB"), "--limit is more than the 139.80 GiB that are free"),
        ((*WORDS, "--limit", "lots"), "--limit"),
        ((*WORDS, "--time-limit", "0"), "--time-limit is 0"),
        ((*WORDS, "--image", "-1"), "--image is -1"),
        ((*WORDS, "--pid", "1"), "--pid goes with --url"),
        ((*WORDS, "--out", "nowhere/m.json"), "the folder nowhere does not exist"),
        ((*WORDS, "--out", "."), ". is no name for a file"),
        (("measure", "--model", MODEL), "the weights of qwen2.5-0.5b are not on this machine"),
        ((*WORDS, "--lmdeploy", "0.17.0"), "the plan is for LMDeploy 0.17.0 and 0.18.0 is installed"),
        ((*WORDS, "--weights", "fp8"), "fp8"),
        (("measure", "--plan", "nothing.json"), "cannot read nothing.json: No such file"),
        (("measure", "--plan", "broken.json"), "broken.json is not valid JSON: line 1, column 2"),
        (("measure", "--plan", "other.json"), "its schema is 'lmplan.recommend/1'"),
        (("measure", "--plan", "hollow.json"), "hollow.json: model is missing"),
        (("measure", "--url", "localhost:1"), "--url is 'localhost:1'"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_refused_before_anything_starts(lmplan, gpu, tmp_path, words, said):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"schema": "lmplan.recommend/1"}')
    (tmp_path / "hollow.json").write_text('{"schema": "lmplan.estimate/1", "settings": 3}')
    done = lmplan(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (gpu / "seen.json").exists() and not (tmp_path / "measurement.json").exists()


def test_no_driver(lmplan, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_NVML", "none")
    done = lmplan(*WORDS)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        5,
        "lmplan: the NVIDIA driver cannot be reached: Driver Not Loaded",
    )
    assert not (tmp_path / "measurement.json").exists()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_gpu(lmplan, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = lmplan(*WORDS)
    assert done.returncode == 5
    assert "shows no GPU" in done.stderr and "CUDA_VISIBLE_DEVICES" in done.stderr


def test_no_nvidia_ml_py(lmplan, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    done = lmplan(*WORDS)
    assert done.returncode == 5
    assert "nvidia-ml-py is not installed" in done.stderr and "pip install nvidia-ml-py" in done.stderr


def test_no_lmdeploy(lmplan, interpreter, tmp_path):
    path = Path(interpreter(""))
    path.write_text(path.read_text().replace(f"print('{VERSIONS}')", "raise SystemExit(1)"))
    done = lmplan(*WORDS, "--python", str(path))
    assert done.returncode == 5
    assert f"LMDeploy is not installed for {path}" in done.stderr
    done = lmplan(*WORDS, "--python", str(tmp_path / "nothing"))
    assert done.returncode == 5
    assert "No such file or directory" in done.stderr


def test_no_torch(lmplan, interpreter, tmp_path):
    body = "print('ModuleNotFoundError: No module named \\'torch\\''); sys.exit(1)"
    done = lmplan(*WORDS, "--python", interpreter(body))
    assert done.returncode == 5
    assert "LMDeploy cannot start: ModuleNotFoundError" in done.stderr


def test_somebody_else_on_the_gpu_is_said_and_noted(lmplan, engine, gpu, tmp_path):
    (gpu / "0").write_text(str(3 * 2**30))
    engine(**as_planned(planned(free=150_109_880_320 - 3 * 2**30)))
    done = lmplan(*WORDS)
    assert done.returncode == 0, done.stderr
    assert "warning: others hold 3.00 GiB on GPU 0" in done.stderr
    value = file_of(tmp_path)
    assert "others hold 3.00 GiB on GPU 0" in value["note"]
    assert value["free_before_bytes"] == 150_109_880_320 - 3 * 2**30
    assert "passed" in done.stdout


def test_somebody_who_comes_meanwhile_is_said_and_noted(start, engine, gpu, tmp_path):
    engine(**as_planned(planned()), loads_s=1.0)
    process = start(*WORDS)
    wait_for(gpu / "probe")
    (gpu / "0").write_text(str(2**30))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "GPU 0 holds 1.00 GiB more than before the run" in stderr
    assert "another process moved meanwhile" in file_of(tmp_path)["note"]
