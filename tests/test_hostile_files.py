"""What stands where a file is expected and is none, or a bad one: one line at once, from every command that reads."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.data import ROOT
from planner.model import catalog
from quantize.data import ROOT as DATA
from tests.commands import Lmplan

TINY = json.loads((DATA / "tiny-llama.json").read_text())
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
ESTIMATE = ("estimate", "--gpu", "h200", "--model")


def model(folder: Path, config: Any = TINY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(lmplan: Lmplan, words: tuple[str, ...], says: str, code: int = 2) -> str:
    """Run a command that has to refuse at once, in a line or two that name what is wrong."""
    started = time.process_time()
    done = lmplan(*words)
    assert time.process_time() - started < 3, "a blink, imports included"
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= (4 if "sweep" in words else 2) and "Traceback" not in done.stderr
    return done.stderr


READERS: dict[str, tuple[str, ...]] = {
    "config": (*ESTIMATE, "FILE.json"),
    "recommend": ("recommend", "--gpu", "h200", "--model", "FILE.json"),
    "diff": ("report", "--diff", "FILE", "FILE"),
    "fleet": ("sweep", "FILE"),
    "estimate": ("compare", "FILE", "FILE"),
    "plan": ("measure", "--dry-weights", "--plan", "FILE"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["fifo", "device", "large", "utf16", "deep", "twice", "nan", "digits", "kind"])
def test_every_reader_refuses_what_is_no_file_of_its_kind(
    lmplan_here: Lmplan, tmp_path: Path, name: str, kind: str
) -> None:
    words = READERS[name]
    path = tmp_path / ("odd.json" if "FILE.json" in words else "odd")
    text = {
        "utf16": "{}".encode("utf-16"),
        "deep": b"[" * 100_000,
        "twice": b'{"a": 1, "a": 2}',
        "nan": b'{"a": NaN}',
        "digits": b'{"a": ' + b"9" * 5000 + b"}",
        "kind": b"[1]",
        "large": b"",
    }
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(text[kind])
    if kind == "large":
        os.truncate(path, 100_000_000)
    said = refused(lmplan_here, tuple(path.name if word.startswith("FILE") else word for word in words), "odd")
    expected = {"fifo": "is a pipe", "device": "is a device", "large": "too many for", "utf16": "not UTF-8"}
    assert expected.get(kind, "") in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("command", ["estimate", "inspect"])
def test_a_pipe_in_a_model_s_folder(lmplan_here: Lmplan, tmp_path: Path, name: str, command: str) -> None:
    quantized = {**TINY, "quantization_config": AWQ} if command == "inspect" else TINY
    folder = model(tmp_path / "m", quantized)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    done = lmplan_here("inspect", "m") if command == "inspect" else lmplan_here(*ESTIMATE, "m")
    if name.endswith("index.json"):  # no index that counts, and no weights
        assert done.returncode == (7 if command == "inspect" else 0)
        return
    assert done.returncode == (7 if command == "inspect" and name != "config.json" else 2)
    assert f"m/{name} is a pipe" in done.stdout + done.stderr


def test_pipes_among_weights_and_indexes_of_torch(lmplan_here: Lmplan, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {**TINY, "quantization_config": AWQ})
    os.mkfifo(folder / "pytorch_model.bin")
    done = lmplan_here("inspect", "m")
    assert done.returncode == 7 and "pytorch_model.bin is a pipe" in done.stdout
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "' + "n" * 5000 + '"}}')
    done = lmplan_here("inspect", "m")
    assert done.returncode == 7 and "which is not a file name" in done.stdout


def test_a_folder_that_may_not_be_searched(
    lmplan_here: Lmplan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's answer is played, since root may search everything."""
    folder = model(tmp_path / "m")
    stat, opened = os.stat, os.open

    def no_stat(path: Any, *more: Any, **options: Any) -> os.stat_result:
        if "m/" in os.fspath(path) if isinstance(path, (str, Path)) else False:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return stat(path, *more, **options)

    def no_open(path: Any, *more: Any, **options: Any) -> int:
        no_stat(path)
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "stat", no_stat)
    monkeypatch.setattr(os, "open", no_open)
    refused(lmplan_here, (*ESTIMATE, "m"), "cannot look at m/config.json: Permission denied")
    refused(lmplan_here, (*ESTIMATE, "m/config.json"), "cannot look at m/config.json: Permission denied")
    refused(lmplan_here, ("inspect", "m"), "cannot read m/config.json: Permission denied")
    assert folder.is_dir()


@pytest.mark.parametrize("header_bytes", [16 * 2**20 + 1, 84_000_000, 2**63])
def test_a_header_without_end_is_not_read(lmplan_here: Lmplan, tmp_path: Path, header_bytes: int) -> None:
    path = model(tmp_path / "m") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", header_bytes))
    os.truncate(path, 100_000_000)
    said = refused(lmplan_here, (*ESTIMATE, "m"), f"claims a header of {header_bytes} bytes")
    assert "at most 16777216" in said


def _numbers(size: int) -> str:
    return '{"a": [' + "1," * (size // 2 - 10) + "1]}"


def _keys(size: int) -> str:
    return "{" + ",".join(f'"{n:x}":1' for n in range(size // 10)) + "}"


def _lists(size: int) -> str:
    return '{"a": [' + "[]," * (size // 3 - 10) + "[]]}"


@pytest.mark.parametrize("dense", [_numbers, _keys, _lists])
@pytest.mark.parametrize("size", [2_400_000, 2**24 - 64])
def test_the_largest_header_takes_seconds_and_megabytes_at_most(
    tmp_path: Path, dense: Callable[[int], str], size: int
) -> None:
    text = dense(size).encode()
    path = model(tmp_path / "m") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    code = (
        "import resource, sys\nfrom planner.cli.main import run\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = run(sys.argv[1:])\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(code, (used.ru_maxrss - before) // 1024, used.ru_utime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *ESTIMATE, str(path.parent)], capture_output=True, text=True, check=True
    )
    exit_code, used_mib, seconds = done.stdout.split()
    assert exit_code == "2" and len(done.stderr.splitlines()) <= 2
    assert int(used_mib) < 300
    assert float(seconds) < 5, "2 s on a machine of one's own"


def test_a_checkpoint_of_another_model_serves_nothing(lmplan_here: Lmplan, tmp_path: Path) -> None:
    entry = catalog.load("qwen2.5-0.5b")
    assert entry is not None
    folder = model(tmp_path / "m", entry.config)
    header = json.dumps({"adapter.lora_A": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for words in (ESTIMATE, ("recommend", "--gpu", "h200", "--model"), ("report", "--gpu", "h200", "--model")):
        refused(lmplan_here, (*words, "m"), "holds none of the tensors that its config.json leads to")
    (tmp_path / "fleet.yaml").write_text("workloads: [{model: ./m}]\nmachines: [{gpu: h200, count: 1}]\n")
    done = lmplan_here("sweep", "fleet.yaml")
    assert done.returncode == 2 and "holds none of the tensors" in done.stderr
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(lmplan_here, (*ESTIMATE, "m"), "holds none of the tensors")


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a\x00b"])
def test_names_that_no_file_can_have(lmplan_here: Lmplan, name: str) -> None:
    typed = name.replace("\0", "n" * 300)  # no command line holds a NUL
    for words in (
        ("inspect", typed),
        ("quantize", f"./{typed}"),
        ("quantize", f"{typed}.yaml"),
        (*ESTIMATE, f"./{typed}"),
    ):
        refused(lmplan_here, words, "")
    index = {"weight_map": {"a": name}}
    folder = model(Path("m"), TINY)
    (folder / "model.safetensors").touch()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lmplan_here, (*ESTIMATE, "m"), "which is not a file name")


def test_a_ledger_takes_no_pipe_and_no_half_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.evidence.ledger_add import main

    shipped = json.loads((ROOT / "measurements" / "h200-lmdeploy-0.18.0.json").read_text())
    run = {"schema": "lmplan.measurement/1", **shipped["runs"][0]}
    run["model"] = {"name": "x", "config": shipped["configs"][run["model"]["config"]]}
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "half.json").write_text(json.dumps({**run, "phases": [{**run["phases"][0], "facts": 3}]}))
    ledger = tmp_path / "ledger.json"
    for file, says in (("fifo", "is a pipe"), ("half.json", "phases[0].facts is 3; expected an object")):
        assert main([str(ledger), str(tmp_path / file)]) == 2
        assert says in capsys.readouterr().err
        assert not ledger.exists()
    assert main([str(ledger), str(tmp_path / "run.json")]) == 0
    before = ledger.read_text()
    assert main([str(ledger), str(tmp_path / "run.json"), str(tmp_path / "fifo")]) == 2
    assert ledger.read_text() == before
