"""`lmplan measure` against a fake GPU and a fake LMDeploy: runs that go well."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import jsonschema
import pytest

from planner.evidence.ledger import shipped_files
from planner.model.arch import read_spec
from planner.model.fingerprint import config_sha256
from planner.model.inventory import inventory
from planner.model.source import resolve
from quantize.checkpoint.synthetic import write_checkpoint
from tests.measure.conftest import (
    MODEL,
    SCHEMA,
    WORDS,
    as_planned,
    file_of,
    measured,
    planned,
)


def test_a_run_that_goes_as_planned(lmplan, engine, gpu, tmp_path):
    plan = planned()
    engine(**as_planned(plan))
    done = lmplan(*WORDS)
    assert done.returncode == 0, done.stderr
    assert "Verdict: serves, as estimated." in done.stdout and "passed" in done.stdout
    value = file_of(tmp_path)
    assert value["complete"] and value["outcome"] == "serves" and value["error"] == value["note"] == ""
    names = [phase["name"] for phase in value["phases"]]
    assert names == [
        "context", "loaded", "short_request", "long_prefill", "decode", "decode", "full_batch", "sampled_batch", "done",
    ]  # fmt: skip
    assert value["phases"][0]["used_bytes"] == [552_402_944]
    assert value["phases"][1]["used_bytes"] == [plan["per_gpu"]["total_bytes"]]
    assert value["phases"][1]["facts"]["process_bytes"] == [plan["per_gpu"]["total_bytes"]]
    assert value["host"]["lmdeploy"] == "0.18.0" and value["host"]["cuda"] == "13.0"
    assert value["checkpoint"] == {"format": "16-bit", "bytes": 988065536, "synthetic": True}
    assert value["model"]["config_sha256"] == config_sha256(resolve(MODEL).config)
    assert value["settings"] == plan["settings"]
    assert value["engine_log"]["block_bytes"] == plan["kv_cache"]["block_bytes"]
    assert value["load_peak_bytes"] == plan["per_gpu"]["load_peak_bytes"]
    assert value["peak_bytes"] == plan["per_gpu"]["total_bytes"] + 10 * 2**20
    assert {rate["phase"] for rate in value["speed"]} == {"decode", "prefill"}
    seen = json.loads((gpu / "seen.json").read_text())
    assert not Path(seen["folder"]).exists()  # the empty checkpoint is gone
    assert seen["settings"]["session_len"] == plan["settings"]["session_len"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["measurement.json"]


def test_a_run_that_does_not_go_as_planned_is_shown_so(lmplan, engine, tmp_path):
    engine(**as_planned(planned(), share=0.9))
    done = lmplan(*WORDS)
    assert done.returncode == 0  # it was measured; `lmplan compare` judges
    assert "OUTSIDE" in done.stdout and "Tolerance 1.0%: failed." in done.stdout


def test_a_plan_file_says_what_runs(lmplan, engine, tmp_path):
    wishes = {"cache_max_entry_count": 0.3, "quant_policy": 8, "max_batch_size": 32, "session_len": 4096}
    plan = planned(**wishes)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    engine(**as_planned(plan))
    done = lmplan("measure", "--plan", "plan.json", "--dry-weights", "--out", "m.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["settings"] == plan["settings"]
    assert lmplan("compare", "plan.json", "m.json").returncode == 0


def test_a_neighbour_holds_the_rest_and_lets_go(lmplan, engine, gpu, tmp_path):
    plan = planned(free="24GiB")
    engine(**as_planned(plan))
    done = lmplan(*WORDS, "--limit", "24GiB")
    assert done.returncode == 0, done.stderr
    value = file_of(tmp_path)
    assert 0 <= value["free_before_bytes"] - 24 * 2**30 < 16 * 2**20
    assert value["phases"][1]["used_bytes"] == [plan["per_gpu"]["total_bytes"]]
    assert "passed" in done.stdout and "than before the run" not in done.stderr


def test_the_device_that_is_read_is_the_one_that_runs(lmplan, engine, gpu, monkeypatch):
    monkeypatch.setenv("FAKE_GPUS", "4")
    engine(**as_planned(planned()))
    assert lmplan(*WORDS, "--device", "2").returncode == 0
    assert json.loads((gpu / "seen.json").read_text())["cuda"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert lmplan(*WORDS, "--device", "1", "--force").returncode == 0
    assert json.loads((gpu / "seen.json").read_text())["cuda"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    assert lmplan(*WORDS, "--force").returncode == 0
    assert json.loads((gpu / "seen.json").read_text())["cuda"] == "GPU-0"
    done = lmplan(*WORDS, "--device", "1", "--force")
    assert done.returncode == 5
    assert "GPU 1 is needed and 1 GPU is there" in done.stderr


def test_a_folder_of_real_weights_is_served_where_it_is(lmplan, engine, gpu, tmp_path):
    source = resolve(MODEL)
    write_checkpoint(tmp_path / "mine", source.config, inventory(read_spec(source.config, MODEL)), fill="sparse")
    engine(**as_planned(planned()))
    done = lmplan("measure", "--model", "mine")
    assert done.returncode == 0, done.stderr
    assert json.loads((gpu / "seen.json").read_text())["folder"] == str(tmp_path / "mine")
    assert measured(tmp_path).checkpoint["synthetic"]  # the mark file is there
    assert "never serve them" in lmplan("estimate", "--model", "mine", "--gpu", "h200").stdout
    done = lmplan("measure", "--model", "mine", "--weights", "w4a16", "--force")
    assert done.returncode == 2
    assert "is not quantized" in done.stderr and "--dry-weights" in done.stderr


def test_an_image_for_a_model_that_sees(lmplan, engine, gpu, tmp_path):
    engine(**as_planned(planned("internvl2-2b", max_batch_size=8)))
    done = lmplan(
        "measure", "--model", "internvl2-2b", "--dry-weights", "--max-batch-size", "8", "--image", "448"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "image" in [phase["name"] for phase in file_of(tmp_path)["phases"]]


def test_load_only(lmplan, engine, tmp_path):
    engine(**as_planned(planned()))
    assert lmplan(*WORDS, "--load-only").returncode == 0
    assert [phase["name"] for phase in file_of(tmp_path)["phases"]] == ["context", "loaded", "done"]


def test_awq_weights_from_a_config_alone(lmplan, engine, gpu, tmp_path):
    engine(**as_planned(planned(weights="w4a16")))
    done = lmplan(*WORDS, "--weights", "w4a16")
    assert done.returncode == 0, done.stderr
    assert file_of(tmp_path)["checkpoint"]["format"] == "awq"


def test_the_schema_is_printed(lmplan):
    done = lmplan("measure", "--schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_run_of_the_ledger_follows_the_schema():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in shipped_files():
        for run in json.loads(path.read_text())["runs"]:
            errors = [error.message for error in validator.iter_errors({"schema": "lmplan.measurement/1", **run})]
            assert errors == [], run["model"]["name"]


@pytest.mark.parametrize("program", ["probe.py", "hold.py"])
def test_what_runs_inside_lmdeploy_s_python_stands_alone(program):
    tree = ast.parse((Path(__file__).parents[2] / "quantize" / "measure" / program).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "lmdeploy", "PIL"}
