"""`lmplan measure` when the engine dies, hangs, waits or talks nonsense: what is said, and what is kept."""

from __future__ import annotations

import json
import time

import pytest

from planner.units import MIB
from quantize.measure.measurement import Reading
from quantize.measure.seen import Seen, TimeLimit
from tests.measure.conftest import (
    FREE_BYTES,
    OUT_OF_MEMORY,
    WORDS,
    as_planned,
    file_of,
    group_is_gone,
    planned,
)


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


def test_hanging_as_planned_is_no_failure(lmplan, engine, tmp_path):
    waits = ["[TM][INFO] Object cache budget: 2700.00 MB from free 3375.00 MB", "[TM][INFO] out of memory at 0/1"]
    engine(hangs="warming up", log=waits, load_peak=4 * 2**30)
    words = ("measure", "--model", "qwen1.5-7b-chat", "--dry-weights", "--weights", "w4a16", "--limit", "10.7GiB")
    done = lmplan(*words, "--max-batch-size", "64", "--time-limit", "3")
    assert done.returncode == 0, done.stderr
    assert "Verdict: hangs while warming up, as estimated." in done.stdout


def test_a_phase_that_tells_no_time_has_no_speed():
    seen = Seen()
    seen.phases += [Reading("decode", [1], [1], facts) for facts in ({}, {"seconds": 1.0}, {"tokens": 9})]
    assert seen.speed() == []
    seen.phases.append(Reading("decode", [1], [1], {"seconds": 2.0, "tokens": 9, "batch": 3}))
    assert seen.speed() == [{"phase": "decode", "batch": 3, "tokens_per_s": 4.5}]


def test_waiting_for_room_shortens_the_limit_only_as_long_as_it_waits(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("quantize.measure.seen.time.monotonic", lambda: now[0])
    limit, seen = TimeLimit(900.0), Seen()
    assert limit.end(seen) == 1000.0
    seen.log.read("[TM][INFO] out of memory at 0/1")
    now[0] = 200.0
    assert limit.end(seen) == 210.0
    now[0] = 205.0
    assert limit.end(seen) == 210.0
    seen.phases.append(Reading("loaded", [1], [1]))
    assert limit.end(seen) == 1000.0


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
        done = lmplan(*WORDS, "--force")
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
