"""`lmplan inspect` on checkpoints of several files, and configs that leave something out."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from planner.model import formats
from planner.model.arch import read_spec
from planner.model.checkpoint import INDEX_NAME
from planner.model.inventory import inventory
from planner.model.rewrite import quantized_config
from quantize.checkpoint.make import known_config
from quantize.checkpoint.synthetic import write_checkpoint
from quantize.lite.inspection import inspect_folder

NAN = b"\x00\x7e"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """A good checkpoint in three files of about as many tensors, with an index."""
    config = known_config("tiny-llama")
    groups = formats.store(inventory(read_spec(config, "tiny")), formats.W4A16)
    path = write_checkpoint(tmp_path, quantized_config(config, formats.W4A16), groups, fill="drawn")
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    header.pop("__metadata__")
    names = sorted(header)
    files, index = [], {}
    for number in range(3):
        entries, data = {}, b""
        for name in names[number::3]:
            begin, end = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [len(data), len(data) + end - begin]}
            data += raw[start + begin : start + end]
            index[name] = f"model-0000{number + 1}-of-00003.safetensors"
        text = json.dumps(entries).encode()
        files.append(tmp_path / f"model-0000{number + 1}-of-00003.safetensors")
        files[-1].write_bytes(struct.pack("<Q", len(text)) + text + data)
    path.unlink()
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    return files


def test_every_shard_is_looked_at(shards):
    folder = shards[0].parent
    whole = inspect_folder(folder)
    assert whole.passed and whole.num_scales == 28
    assert whole.file_bytes == sum(path.stat().st_size for path in shards)


@pytest.mark.parametrize("number", range(3))
def test_a_flaw_in_any_shard_is_found(shards, number):
    raw = shards[number].read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    name = next(name for name in header if name.endswith(".scales"))
    place = start + header[name]["data_offsets"][0]
    shards[number].write_bytes(raw[:place] + NAN + raw[place + 2 :])
    (problem,) = inspect_folder(shards[0].parent).problems
    assert (
        problem
        == f"{name}: 1 of {header[name]['data_offsets'][1] // 2 - header[name]['data_offsets'][0] // 2} scales are NaN"
    )


@pytest.mark.parametrize("value", ["missing", False, None, 0, "true"])
def test_zero_points_have_to_be_said(shards, value):
    path = shards[0].with_name("config.json")
    config = json.loads(path.read_text())
    if value == "missing":
        del config["quantization_config"]["zero_point"]
    else:
        config["quantization_config"]["zero_point"] = value
    path.write_text(json.dumps(config))
    (problem,) = inspect_folder(path.parent).problems
    assert "zero_point is not true" in problem
