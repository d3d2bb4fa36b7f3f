"""`lmplan calibrate`: what it stores, what later estimates make of it, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.hardware.calibration import find
from quantize.measure.calibrate import MODELS
from tests.measure.conftest import as_planned, planned

CODE_BYTES = 446_300_160  # what planner/data/host.toml has of an H200


def extra_behaviour(extra_bytes: int, **wishes: Any) -> dict[str, Any]:
    """A fake engine that tells models apart by their session length and holds `extra_bytes` more than planned."""
    wishes = {"cache_max_entry_count": 0.2, "max_batch_size": 64, **wishes}
    by_session = {}
    for model in MODELS:
        plan = planned(model, **wishes)
        good = as_planned(plan)
        total = plan["per_gpu"]["total_bytes"] + extra_bytes
        by_session[plan["settings"]["session_len"]] = {
            **good, "total": total, "load_peak": total, "served": total + 12 * 2**20
        }  # fmt: skip
    assert len(by_session) == len(MODELS)
    return {"by_session": by_session}


def estimate_text(lmplan: Any, *words: str) -> str:
    done = lmplan("estimate", "--model", "llama-3.1-8b", "--gpu", "h200", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_what_is_measured_is_stored_used_and_said(lmplan, engine, tmp_path):
    engine(**extra_behaviour(50 * 2**20))
    before = json.loads(lmplan("estimate", "--model", "llama-3.1-8b", "--gpu", "h200", "--format", "json").stdout)
    done = lmplan("calibrate")
    assert done.returncode == 0, done.stderr
    assert "NVIDIA H200, driver 580.159.04, LMDeploy 0.18.0" in done.stdout and "(3 runs)" in done.stdout
    file = tmp_path / "config" / "hosts.json"
    assert str(file) in done.stdout
    entry = json.loads(file.read_text())["hosts"][0]
    assert entry["cuda_context_bytes"] == 552_402_944
    assert entry["kernel_code_bytes"] == CODE_BYTES + 50 * 2**20
    assert entry["first_request_bytes"] == 12 * 2**20
    assert "communicator" not in entry
    assert "measured (calibrated here, 3 runs" in estimate_text(lmplan)
    after = json.loads(lmplan("estimate", "--model", "llama-3.1-8b", "--gpu", "h200", "--format", "json").stdout)
    terms = [{term["name"]: term["bytes"] for term in plan["per_gpu"]["terms"]} for plan in (before, after)]
    assert terms[1]["kernel_code"] - terms[0]["kernel_code"] == 50 * 2**20
    assert terms[1]["kv_cache"] < terms[0]["kv_cache"]
    # Another version, engine or GPU is not what was calibrated.
    assert "calibrated here" not in estimate_text(lmplan, "--lmdeploy", "0.17.0")
    assert "calibrated here" not in estimate_text(lmplan, "--engine", "pytorch")
    assert "calibrated here" not in lmplan("estimate", "--model", "qwen2.5-0.5b", "--gpu", "h100").stdout


def test_again_replaces_and_reset_forgets(lmplan, engine, tmp_path):
    file = tmp_path / "config" / "hosts.json"
    for extra in (0, 20 * 2**20):
        engine(**extra_behaviour(extra))
        assert lmplan("calibrate").returncode == 0
        hosts = json.loads(file.read_text())["hosts"]
        assert [entry["kernel_code_bytes"] for entry in hosts] == [CODE_BYTES + extra]
        assert sorted(path.name for path in file.parent.iterdir()) == [".hosts.json.lock", "hosts.json"]
    assert lmplan("calibrate", "--reset").stdout == "forgotten\n"
    assert lmplan("calibrate", "--reset").stdout == "there was nothing to forget\n"
    assert "calibrated here" not in estimate_text(lmplan)


def test_a_model_that_does_not_start_stores_nothing(lmplan, engine, tmp_path):
    engine(dies="loading", says="RuntimeError: broken")
    done = lmplan("calibrate")
    assert done.returncode == 6
    assert "ended after context: RuntimeError: broken" in done.stderr and "Nothing was stored" in done.stderr
    assert not (tmp_path / "config").exists()


def test_what_nccl_holds(lmplan, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_GPUS", "2")
    behaviour = extra_behaviour(0)
    plan = planned("qwen3-1.7b", cache_max_entry_count=0.2, max_batch_size=64, tp=2)
    good = as_planned(plan)
    behaviour["by_session"][f"{plan['settings']['session_len']} tp 2"] = {**good, "total": good["total"] + 7 * 2**20}
    engine(**behaviour)
    done = lmplan("calibrate", "--tp", "2")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "config" / "hosts.json").read_text())["hosts"][0]["communicator"]
    # The fake says what was planned, but for the log's 0.01 MiB / ratio; 7 MiB came after the KV cache was sized.
    assert abs(entry["size_bytes"] - 673_185_792) < 2**17
    assert abs(entry["late_bytes"] - 196_083_712 - 7 * 2**20) < 2**17
    text = estimate_text(lmplan, "--tp", "2")
    assert "measured (1 run with tp 2 on NVIDIA H200, calibrated here)" in text
    assert lmplan("calibrate", "--tp", "2", "--engine", "pytorch").returncode == 2
    assert lmplan("calibrate", "--tp", "0").returncode == 2
    assert lmplan("calibrate", "--tp", "4").returncode == 5


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", '{"schema": "lmplan.hosts/2", "hosts": []}', '{"schema": "lmplan.hosts/1"}',
        '{"schema": "lmplan.hosts/1", "hosts": [3]}', '{"schema": "lmplan.hosts/1", "hosts": [{}]}', "[" * 100_000,
        '{"schema": "lmplan.hosts/1", "hosts": [{"product": "NVIDIA H200"}]}', "\xff",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named_and_the_shipped_figures_stand_in(lmplan, tmp_path, text):
    file = tmp_path / "config" / "hosts.json"
    file.parent.mkdir()
    file.write_text(text, encoding="latin-1")
    done = lmplan("estimate", "--model", "qwen2.5-0.5b", "--gpu", "h200")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "hosts.json" in told and "the shipped figures stand in" in told and "`lmplan calibrate --reset`" in told
    assert lmplan("calibrate", "--reset").returncode == 0
    assert lmplan("estimate", "--model", "qwen2.5-0.5b", "--gpu", "h200").returncode == 0


@pytest.mark.parametrize(
    ("field", "value"), [("kernel_code_bytes", "many"), ("cuda_context_bytes", -1), ("runs", None)]
)
def test_an_entry_with_fields_of_another_kind_is_left_out(lmplan, engine, tmp_path, field: str, value: object):
    engine(**extra_behaviour(0))
    assert lmplan("calibrate").returncode == 0
    file = tmp_path / "config" / "hosts.json"
    stored = json.loads(file.read_text())
    stored["hosts"][0][field] = value
    file.write_text(json.dumps(stored))
    done = lmplan("estimate", "--model", "qwen2.5-0.5b", "--gpu", "h200")
    assert done.returncode == 0
    assert f"hosts.json: entry 1: {field} is " in " ".join(done.stdout.split())


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from planner.hardware import calibration

    monkeypatch.setenv("LMPLAN_CONFIG_HOME", str(tmp_path))
    assert calibration.path() == tmp_path / "hosts.json"
    monkeypatch.delenv("LMPLAN_CONFIG_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert calibration.path() == tmp_path / "xdg" / "lmplan" / "hosts.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert calibration.path() == tmp_path / "home" / ".config" / "lmplan" / "hosts.json"
    assert find("NVIDIA H200", "turbomind", "0.18.0") is None
