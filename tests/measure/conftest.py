"""A fake GPU and a fake LMDeploy, and lmplan that is run on them."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from planner import estimate
from planner.report import jsonform
from quantize.measure.measurement import Measurement, read
from tests.commands import Lmplan, lmplan_after

FAKES = Path(__file__).with_name("fakes")
FREE_BYTES = 150_109_880_320
MODEL = "qwen2.5-0.5b"
SCHEMA = json.loads((Path(__file__).parents[2] / "planner/data/schemas/measurement-1.schema.json").read_text())
VERSIONS = '{"lmdeploy": "0.18.0"}'
"""What the interpreter of a fake says is installed for it."""
WORDS = ("measure", "--model", MODEL, "--dry-weights")
OUT_OF_MEMORY = "RuntimeError: [TM][FATAL] CUDA runtime error: out of memory"
IMPATIENT = lmplan_after("from quantize.system import child; child._GRACE_S = 1.0")
"""lmplan that gives what it asks to end one second and not ten."""
Engine = Callable[..., None]


def file_of(folder: Path) -> dict[str, Any]:
    """The measurement that lies in `folder`, as its schema has it."""
    value: dict[str, Any] = json.loads((folder / "measurement.json").read_text())
    jsonschema.validate(value, SCHEMA)
    return value


def planned(model: str = MODEL, gpu: str = "h200", **wishes: Any) -> dict[str, Any]:
    """The estimate of a model on the fake GPU, as JSON."""
    return jsonform.to_object(estimate(model, gpu, **wishes))


def as_planned(plan: dict[str, Any], share: float = 1.0) -> dict[str, Any]:
    """A fake engine that does what was planned, or `share` of it."""
    kv = next(term["bytes"] for term in plan["per_gpu"]["terms"] if term["name"] == "kv_cache")
    budget = kv * share / 2**20
    free = budget / plan["settings"]["cache_max_entry_count"]
    lines = [f"[TM][INFO] Object cache budget: {budget:.2f} MB from free {free:.2f} MB and ratio 0.800"]
    lines.append(
        f"[TM][WARNING] slab_size 33554432, object_size {plan['kv_cache']['block_bytes']}, object_count 42, ratio 0.98"
    )
    total = int(plan["per_gpu"]["total_bytes"] * share)
    return {"total": total, "load_peak": plan["per_gpu"]["load_peak_bytes"], "served": total + 10 * 2**20, "log": lines}


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a GPU (`fakes/fake_gpu.py`); everything that is started sees it and the fakes."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    monkeypatch.setenv("FAKE_GPU", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}{os.pathsep}{os.environ['PYTHONPATH']}")
    for name in ("fake_gpu", "pynvml"):
        monkeypatch.setitem(sys.modules, name, _loaded(name))
    monkeypatch.setenv("LMPLAN_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def _loaded(name: str) -> ModuleType:
    """A fake as a module of this process; nothing else of the fakes is to be found here."""
    spec = importlib.util.spec_from_file_location(name, FAKES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Say how the fake LMDeploy behaves."""

    def behave(**behaviour: Any) -> None:
        monkeypatch.setenv("FAKE_ENGINE", json.dumps(behaviour))

    behave()
    return behave


@pytest.fixture
def lmplan(gpu: Path, lmplan_here: Lmplan) -> Lmplan:
    """Run lmplan in `tmp_path`, in this process; what it starts is a process of its own."""
    return lmplan_here


@pytest.fixture
def start(tmp_path: Path, gpu: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start lmplan in `tmp_path` and go on."""

    def begin(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*IMPATIENT, *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
            start_new_session=True,
        )

    return begin


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[str], str]:
    """A program for --python that knows LMDeploy's version and runs `body` (Python) in place of what it is given."""

    def make(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport os, sys, time\n"
            f"if sys.argv[1] == '-c':\n    print('{VERSIONS}')\n    sys.exit()\n{body}"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def measured(tmp_path: Path) -> Measurement:
    """The file that `lmplan measure` wrote."""
    return read(tmp_path / "measurement.json")


def wait_for(path: Path, seconds: float = 60) -> str:
    """The text of a file that somebody is about to write."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def group_is_gone(pid: int, seconds: float = 20) -> bool:
    """Whether no process of the group is left, or will be soon; zombies wait for nobody but the init process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _members(pid):
            return True
        time.sleep(0.05)
    return False


def _members(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[2]) == group:
            found.append(path.parent.name)
    return found
