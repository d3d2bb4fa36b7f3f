"""`lmplan quantize` measures what it made, where there is a GPU; a run is good either way."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from planner import estimate
from planner.report import jsonform
from quantize.checkpoint import synthetic
from tests.measure.conftest import as_planned

NO_CHECK = ("--set", "check.quality=none")
"""Its subject is what comes after; the packages that stand in here are not those that a check needs."""
FAKE = Path(__file__).parents[1] / "quantize" / "fake_lmdeploy.py"


@pytest.fixture
def lite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake `lmdeploy lite auto_awq`."""
    path = tmp_path / "bin" / "lmdeploy"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LMPLAN_LMDEPLOY", str(path))
    monkeypatch.setattr(synthetic, "_POOL_VALUES", 1009)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_was_made_is_served_and_compared(lite, lmplan, engine, gpu, tmp_path):
    engine(total=2 * 2**30, log=["[TM][INFO] Object cache budget: 100.00 MB from free 125.00 MB and ratio 0.800"])
    first = lmplan("quantize", "tiny-llama", *NO_CHECK, "--set", "deployment.gpu=h200", "--set", "output=first")
    assert first.returncode == 0, first.stderr
    assert "Measured on NVIDIA H200:" in first.stdout and "OUTSIDE" in first.stdout  # the fake holds what it likes
    assert "not measured" not in first.stdout.split("GPU memory")[-1]
    plan = jsonform.to_object(estimate(str(tmp_path / "first"), "h200"))
    engine(**as_planned(plan))
    done = lmplan("quantize", "tiny-llama", *NO_CHECK, "--set", "deployment.gpu=h200", "--set", "output=out")
    assert done.returncode == 0, done.stderr
    assert "Verdict: serves, as estimated." in done.stdout and "passed" in done.stdout
    value = json.loads((tmp_path / "out" / "lmplan-measurement.json").read_text())
    assert value["complete"] and value["checkpoint"]["format"] == "awq" and value["checkpoint"]["synthetic"]
    assert lmplan("inspect", "out").returncode == 0


def test_a_smaller_card_is_imitated(lite, lmplan, engine, gpu, tmp_path):
    done = lmplan(
        "quantize",
        "tiny-llama",
        *NO_CHECK,
        "--set",
        "deployment.gpu=24GiB",
        "--set",
        "deployment.sm=90",
        "--set",
        "output=out",
    )
    assert done.returncode == 0, done.stderr
    assert "Measured on NVIDIA H200 with 24.0" in done.stdout


@pytest.mark.parametrize(
    ("environment", "settings", "said"),
    [
        ({"FAKE_NVML": "none"}, [], "not measured: the NVIDIA driver cannot be reached"),
        ({"CUDA_VISIBLE_DEVICES": ""}, [], "not measured: the NVIDIA driver shows no GPU"),
        ({}, ["deployment.num_gpus=2"], "not measured: GPU 1 is needed and 1 GPU is there"),
        ({}, ["deployment.lmdeploy=0.17.0"], "not measured: the plan is for LMDeploy 0.17.0 and 0.18.0 is installed"),
    ],
)
def test_where_it_cannot_be_measured_it_says_why(lite, lmplan, gpu, monkeypatch, environment, settings, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = [word for setting in ("deployment.gpu=h200", *settings) for word in ("--set", setting)]
    done = lmplan("quantize", "tiny-llama", *NO_CHECK, *words)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "lmplan measure --model" in done.stdout


def test_an_engine_that_dies_does_not_spoil_the_result(lite, lmplan, engine, gpu, tmp_path):
    engine(dies="loading", says="RuntimeError: broken")
    done = lmplan("quantize", "tiny-llama", *NO_CHECK, "--set", "deployment.gpu=h200", "--set", "output=out")
    assert done.returncode == 0, done.stderr
    assert "The run did not finish: RuntimeError: broken" in done.stdout
    assert not json.loads((tmp_path / "out" / "lmplan-measurement.json").read_text())["complete"]
    assert (tmp_path / "out" / "model.safetensors").exists()
