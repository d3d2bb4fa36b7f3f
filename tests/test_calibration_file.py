"""hosts.json: what plans can use is kept, the rest is named and left out, and nobody's entry is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.errors import CheckFailedError, EnvironmentProblem, UsageError
from planner.hardware import calibration

ROOT = Path(__file__).parents[1]
ENTRY: dict[str, Any] = {
    "product": "NVIDIA L4",
    "driver": "580",
    "lmdeploy": "0.18.0",
    "engine": "turbomind",
    "compute_capability": 89,
    "cuda_context_bytes": 400 * 2**20,
    "kernel_code_bytes": 300 * 2**20,
    "kernel_code_spread_bytes": 2**20,
    "late_code_bytes": 0,
    "first_request_bytes": 0,
    "runs": 3,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMPLAN_CONFIG_HOME", str(tmp_path))
    calibration._read.cache_clear()
    return tmp_path


def write(home: Path, *entries: Any, schema: str = "lmplan.hosts/1") -> None:
    (home / "hosts.json").write_text(json.dumps({"schema": schema, "hosts": list(entries)}))
    calibration._read.cache_clear()


def test_stored_is_found_and_replaced(home: Path) -> None:
    calibration.store(ENTRY)
    calibration.store({**ENTRY, "runs": 5})
    calibration.store({**ENTRY, "driver": "590"})
    assert len(json.loads((home / "hosts.json").read_text())["hosts"]) == 2
    found = calibration.find("NVIDIA L4", "turbomind", "0.18.0")
    assert found is not None and found["driver"] == "590"
    assert calibration.problems() == ()
    assert calibration.reset() is True and calibration.reset() is False


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel_code_spread_bytes": 301 * 2**20}, "the runs contradict each other"),
        ({"kernel_code_bytes": -1}, "kernel_code_bytes is -1; expected a whole number from 0 to"),
        ({"kernel_code_bytes": True}, "kernel_code_bytes is True"),
        ({"kernel_code_bytes": 1.5}, "kernel_code_bytes is 1.5"),
        ({"kernel_code_bytes": 2**50}, "kernel_code_bytes is 1125899906842624"),
        ({"kernel_code_bytes": "many"}, "kernel_code_bytes is 'many'"),
        ({"product": "\x1b]0;x\x07"}, "product is '\\x1b]0;x\\x07'; expected a name"),
        ({"lmdeploy": ""}, "lmdeploy is ''"),
        ({"communicator": [{"tp": 2}]}, "an entry of communicator has other keys"),
        ({"communicator": {}}, "communicator is not a list"),
        ({"communicator": [{"tp": 2, "size_bytes": None, "late_bytes": 0, "runs": 1}]}, "size_bytes is None"),
    ],
)
def test_what_makes_no_sense_is_named_left_out_and_never_stored(
    home: Path, change: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, {**ENTRY, **change}, {**ENTRY, "product": "NVIDIA A10"})
    assert calibration.find(str({**ENTRY, **change}["product"]), "turbomind", "0.18.0") is None
    assert calibration.find("NVIDIA A10", "turbomind", "0.18.0") is not None
    (problem,) = calibration.problems()
    assert "hosts.json: entry 1: " in problem and says in problem
    with pytest.raises(CheckFailedError, match="makes no sense") as caught:
        calibration.store({**ENTRY, **change})
    assert says in caught.value.message


@pytest.mark.parametrize("missing", ENTRY)
def test_every_field_is_needed(home: Path, missing: str) -> None:
    write(home, {key: value for key, value in ENTRY.items() if key != missing}, 3)
    assert calibration.find("NVIDIA L4", "turbomind", "0.18.0") is None
    assert [p.partition("; ")[0].rpartition(": ")[2] for p in calibration.problems()] == [
        f"{missing} is missing",
        "it is not an object",
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "lmplan.hosts/9", "hosts": []}', "\xff", "[" * 5000])
def test_a_file_that_cannot_be_read_stops_no_plan(home: Path, content: str) -> None:
    (home / "hosts.json").write_text(content, encoding="latin-1")
    calibration._read.cache_clear()
    assert calibration.find("NVIDIA L4", "turbomind", "0.18.0") is None
    assert len(calibration.problems()) == 1
    with pytest.raises(UsageError) as caught:
        calibration.store(ENTRY)
    assert "--reset" in caught.value.hint and (home / "hosts.json").read_text(encoding="latin-1") == content


def test_a_fifo_in_its_place_is_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "hosts.json")
    assert calibration.find("NVIDIA L4", "turbomind", "0.18.0") is None
    assert "is a pipe" in calibration.problems()[0]


def test_no_home_and_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "LMPLAN_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    calibration._file.cache_clear()
    assert calibration.find("NVIDIA L4", "turbomind", "0.18.0") is None
    with pytest.raises(EnvironmentProblem, match="cannot write") as caught:
        monkeypatch.setenv("LMPLAN_CONFIG_HOME", "/proc/nowhere")
        calibration.store(ENTRY)
    assert "LMPLAN_CONFIG_HOME" in caught.value.hint


def test_sixteen_calibrations_at_once_keep_every_entry(home: Path) -> None:
    code = (
        "import json, sys; from planner.hardware import calibration\n"
        "entry = json.loads(sys.argv[1])\n"
        "for n in range(5): calibration.store({**entry, 'driver': f'{sys.argv[2]}.{n}'})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, json.dumps(ENTRY), str(n)], env=environment) for n in range(16)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 16
    drivers = {entry["driver"] for entry in json.loads((home / "hosts.json").read_text())["hosts"]}
    assert drivers == {f"{writer}.{n}" for writer in range(16) for n in range(5)}
