"""However `lmplan measure` ends, nothing is left running, and what was seen is kept."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.measure.conftest import (
    WORDS,
    as_planned,
    file_of,
    group_is_gone,
    planned,
    wait_for,
)


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
