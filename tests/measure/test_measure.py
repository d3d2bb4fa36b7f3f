"""`lmplan measure` against a fake GPU and a fake LMDeploy: good runs, every bad end, and what they leave behind."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.ledger import shipped_files
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.model.tensors import inventory
from planner.units import MIB
from quantize.synthetic import write_checkpoint
from tests.measure.conftest import FREE_BYTES, MODEL, as_planned, group_is_gone, measured, planned, wait_for

SCHEMA = json.loads((Path(__file__).parents[2] / "planner/data/schemas/measurement-1.schema.json").read_text())
WORDS = ("measure", "--model", MODEL, "--dry-weights")
OUT_OF_MEMORY = "RuntimeError: [TM][FATAL] CUDA runtime error: out of memory"


def file_of(tmp_path: Path) -> dict[str, Any]:
    value = json.loads((tmp_path / "measurement.json").read_text())
    jsonschema.validate(value, SCHEMA)
    return value


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
    assert lmplan(*WORDS, "--device", "1").returncode == 0
    assert json.loads((gpu / "seen.json").read_text())["cuda"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    assert lmplan(*WORDS).returncode == 0
    assert json.loads((gpu / "seen.json").read_text())["cuda"] == "GPU-0"
    done = lmplan(*WORDS, "--device", "1")
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
    done = lmplan("measure", "--model", "mine", "--weights", "w4a16")
    assert done.returncode == 2
    assert "is not quantized" in done.stderr and "--dry-weights" in done.stderr


@pytest.mark.parametrize(
    ("behaviour", "outcome", "said"),
    [
        ({"dies": "loading", "says": OUT_OF_MEMORY}, "dies while loading", "out of memory"),
        ({"dies": "loading", "says": OUT_OF_MEMORY, "exit": -6}, "dies while loading", "killed by SIGABRT"),
        ({"dies": "warming up", "says": OUT_OF_MEMORY}, "dies while warming up", "out of memory"),
        (
            {"dies": "loading", "says": "RuntimeError: No enough gpu memory for kv cache."},
            "no room for the KV cache",
            "No enough gpu memory",
        ),
        ({"dies": "loading", "says": "ValueError: unknown architecture"}, "failed", "ValueError: unknown architecture"),
        ({"dies": "loading", "says": "", "exit": -11}, "failed", "killed by SIGSEGV"),
        ({"dies": "loading", "says": "", "exit": 3}, "failed", "LMDeploy said nothing (exit code 3)"),
        ({"dies": "serving", "says": OUT_OF_MEMORY}, "dies while warming up", "out of memory"),
        ({"leaves": "loading"}, "failed", "exit code 0"),
        ({"leaves": "serving"}, "failed", "exit code 0"),
    ],
)
def test_an_engine_that_dies_leaves_a_marked_measurement(lmplan, engine, tmp_path, behaviour, outcome, said):
    good = as_planned(planned())
    engine(**{**good, "log": good["log"] if behaviour.get("dies") in ("warming up", "serving") else [], **behaviour})
    done = lmplan(*WORDS)
    assert done.returncode == 6, done.stderr
    assert said in done.stderr
    value = file_of(tmp_path)
    assert not value["complete"] and value["outcome"] == outcome and said in value["error"]
    assert value["phases"][0]["name"] == "context"
    assert value["load_peak_bytes"] >= good["load_peak"] or behaviour.get("dies") == "serving"
    assert f"Verdict: {outcome}; the estimate said: serves." in done.stdout


def test_dying_as_planned_is_no_failure(lmplan, engine, tmp_path):
    engine(dies="loading", says=OUT_OF_MEMORY, load_peak=4 * 2**30)
    done = lmplan("measure", "--model", "qwen2.5-7b", "--dry-weights", "--limit", "10GiB")
    assert done.returncode == 0, done.stderr
    assert "Verdict: dies while loading, as estimated." in done.stdout
    assert not file_of(tmp_path)["complete"]


def test_answers_that_end_at_once_are_no_speed(lmplan, engine, tmp_path):
    engine(**as_planned(planned()), mute=True)
    assert lmplan(*WORDS).returncode == 0
    assert {rate["phase"] for rate in file_of(tmp_path)["speed"]} == {"prefill"}


def test_a_warm_up_that_waits_for_room_is_ended_and_named(lmplan, engine, tmp_path):
    good = as_planned(planned())
    waits = "[TM][INFO] out of memory at 0/1"
    engine(**{**good, "log": [*good["log"], waits], "hangs": "warming up"})
    done = lmplan(*WORDS, "--time-limit", "3")
    assert done.returncode == 6 and "a warm-up request waits for room in the KV cache" in done.stderr
    assert file_of(tmp_path)["outcome"] == "hangs while warming up"


def test_a_request_that_waits_once_it_serves_is_no_end(lmplan, engine, tmp_path):
    good = as_planned(planned())
    engine(**{**good, "log": [*good["log"], "[TM][INFO] out of memory at 3/9"]})
    assert lmplan(*WORDS).returncode == 0
    assert file_of(tmp_path)["outcome"] == "serves"


def test_dying_on_a_full_gpu_is_for_want_of_memory_whatever_the_engine_says(lmplan, engine, tmp_path):
    good = as_planned(planned())
    words = {"dies": "warming up", "says": "Check failed: status == cudaSuccess invalid argument", "exit": -6}
    for spare, outcome in ((31 * MIB, "dies while warming up"), (33 * MIB, "failed")):
        engine(**{**good, **words, "load_peak": FREE_BYTES - spare, "total": FREE_BYTES - spare})
        done = lmplan(*WORDS)
        assert done.returncode == 6, done.stderr
        assert "invalid argument" in done.stderr
        assert file_of(tmp_path)["outcome"] == outcome


def test_dying_under_load_is_a_failure_although_it_served(lmplan, engine, gpu, tmp_path, monkeypatch):
    engine(**as_planned(planned()))
    monkeypatch.setenv("FAKE_NVML", "lost")
    done = lmplan(*WORDS)
    assert done.returncode == 5
    assert "does not answer: GPU is lost" in done.stderr
    assert group_is_gone(int((gpu / "probe").read_text()))


@pytest.mark.parametrize("point", ["loading", "serving"])
def test_an_engine_that_hangs_is_ended(lmplan, engine, gpu, tmp_path, point):
    engine(**as_planned(planned()), hangs=point, worker=True)
    begun = time.monotonic()
    done = lmplan(*WORDS, "--time-limit", "3")
    assert done.returncode == 6
    assert time.monotonic() - begun < 60
    assert "had not finished after 3 s" in done.stderr
    value = file_of(tmp_path)
    assert [phase["name"] for phase in value["phases"]][-1] == ("context" if point == "loading" else "loaded")
    assert group_is_gone(int((gpu / "probe").read_text()))


def test_a_megabyte_without_a_newline(lmplan, engine, tmp_path):
    engine(**as_planned(planned()), long_line=2**20)
    done = lmplan(*WORDS)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr) < 5000 and (tmp_path / "measurement.json").stat().st_size < 20_000


def test_a_worker_that_holds_the_output_does_not_hang_the_run(lmplan, engine, gpu):
    engine(**as_planned(planned()), worker=True)
    assert lmplan(*WORDS).returncode == 0
    assert group_is_gone(int((gpu / "probe").read_text()))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("time.sleep(600)", "had not finished after 2 s"),
        ("sys.exit(0)", "LMDeploy said nothing (exit code 0)"),
        ("sys.exit(7)", "LMDeploy said nothing (exit code 7)"),
        ("sys.stdout.write('x' * 2**20); sys.exit(1)", "xxx"),
        ('os.close(0); print(\'@lmplan {"phase": "context"}\', flush=True); time.sleep(600)', "had not finished"),
        ("print('@lmplan {broken\\n@lmplan []\\n@lmplan {\"phase\": 3}')", "@lmplan"),
        ("os.write(1, bytes(range(256)) * 100)", ""),
    ],
)
def test_a_probe_that_misbehaves(lmplan, interpreter, gpu, tmp_path, body, said):
    done = lmplan(*WORDS, "--python", interpreter(body), "--time-limit", "2")
    assert done.returncode == 6, done.stderr
    assert said in done.stderr and len(done.stderr) < 3000
    value = file_of(tmp_path)
    assert (value["complete"], value["outcome"]) == (False, "failed")


def test_phases_of_a_probe_that_does_not_wait_are_read_all_the_same(lmplan, interpreter, gpu, tmp_path):
    phases = ("context", "loaded", "short_request", "done")
    body = "\n".join(f"print('''@lmplan {json.dumps({'phase': name})}''')" for name in phases)
    assert lmplan(*WORDS, "--python", interpreter(body)).returncode == 0
    assert [phase["name"] for phase in file_of(tmp_path)["phases"]] == list(phases)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("limit", [(), ("--limit", "20GiB")])
def test_a_signal_ends_everything_and_keeps_what_was_seen(start, engine, gpu, tmp_path, number, limit):
    engine(**as_planned(planned()), hangs="loading", worker=True)
    process = start(*WORDS, *limit)
    probe = int(wait_for(gpu / "probe"))
    holders = [int(path.name) for path in gpu.iterdir() if path.name.isdigit()]
    assert len(holders) == 1 + bool(limit)
    os.killpg(process.pid, number)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"ended by {number.name}" in stderr and "Traceback" not in stderr
    assert all(group_is_gone(pid) for pid in (probe, *holders))
    value = file_of(tmp_path)
    assert not value["complete"] and value["error"] == f"ended by {number.name}"


@pytest.mark.parametrize("point", ["loading", "serving"])
def test_kill_9_of_lmplan_ends_probe_worker_and_neighbour(start, engine, gpu, point):
    engine(**as_planned(planned(free="20GiB")), hangs=point, worker=True)
    process = start(*WORDS, "--limit", "20GiB")
    probe = int(wait_for(gpu / "probe"))
    if point == "serving":
        end = time.monotonic() + 30
        while not (gpu / "serving").exists() and time.monotonic() < end:
            time.sleep(0.05)
    holders = [int(path.name) for path in gpu.iterdir() if path.name.isdigit()]
    assert len(holders) == 2
    process.kill()
    process.communicate(timeout=60)
    assert all(group_is_gone(pid) for pid in (probe, *holders))


def test_a_signal_while_the_neighbour_takes_hold(start, gpu, interpreter):
    program = "if 'hold.py' in sys.argv[1]:\n    open(os.environ['FAKE_GPU'] + '/hold', 'w').write(str(os.getpid()))\n"
    process = start(*WORDS, "--limit", "20GiB", "--python", interpreter(program + "    time.sleep(600)"))
    holder = int(wait_for(gpu / "hold"))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert group_is_gone(holder)


def test_a_neighbour_that_cannot_hold(lmplan, interpreter, gpu):
    done = lmplan(*WORDS, "--limit", "20GiB", "--python", interpreter("print('no CUDA runtime library was found')"))
    assert done.returncode == 5
    assert "could not be held: no CUDA runtime library was found" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("measure",), "nothing to measure"),
        ((*WORDS, "--limit", "200GiB"), "--limit is more than the 139.80 GiB that are free"),
        ((*WORDS, "--limit", "lots"), "--limit"),
        ((*WORDS, "--time-limit", "0"), "--time-limit is 0"),
        ((*WORDS, "--image", "-1"), "--image is -1"),
        ((*WORDS, "--pid", "1"), "--pid goes with --url"),
        ((*WORDS, "--out", "nowhere/m.json"), "there is no such folder"),
        ((*WORDS, "--out", "."), "it is a folder"),
        (("measure", "--model", MODEL), "the weights of qwen2.5-0.5b are not on this machine"),
        ((*WORDS, "--lmdeploy", "0.17.0"), "the plan is for LMDeploy 0.17.0 and 0.18.0 is installed"),
        ((*WORDS, "--weights", "fp8"), "fp8"),
        (("measure", "--plan", "nothing.json"), "nothing.json: No such file"),
        (("measure", "--plan", "broken.json"), "broken.json is not JSON"),
        (("measure", "--plan", "other.json"), "its schema is 'lmplan.recommend/1'"),
        (("measure", "--plan", "hollow.json"), "hollow.json: a field is missing"),
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


def test_no_nvidia_ml_py(lmplan, monkeypatch, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "pynvml.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'without'}{os.pathsep}{os.environ['PYTHONPATH']}")
    done = lmplan(*WORDS)
    assert done.returncode == 5
    assert "nvidia-ml-py is not installed" in done.stderr and "pip install nvidia-ml-py" in done.stderr


def test_no_lmdeploy(lmplan, interpreter, tmp_path):
    path = Path(interpreter(""))
    path.write_text(path.read_text().replace("print('0.18.0')", "raise SystemExit(1)"))
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
    tree = ast.parse((Path(__file__).parents[2] / "quantize" / program).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "lmdeploy", "PIL"}
