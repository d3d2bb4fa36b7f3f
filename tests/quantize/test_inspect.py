"""`lmplan inspect`: good checkpoints pass, each flaw is named."""

from __future__ import annotations

import json
import os

import pytest

from planner.data import read_json
from planner.model import formats
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.rewrite import quantized_config
from quantize.checkpoint.make import known_config
from quantize.checkpoint.synthetic import write_checkpoint
from quantize.lite.inspection import inspect_folder
from quantize.run.manifest import read_manifest


@pytest.fixture
def checkpoint(tmp_path):
    config = known_config("tiny-llama")
    groups = formats.store(inventory(read_spec(config, "tiny")), formats.W4A16)
    write_checkpoint(tmp_path / "awq", quantized_config(config, formats.W4A16), groups, fill="drawn")
    return tmp_path / "awq"


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def problems(folder):
    return "\n".join(inspect_folder(folder).problems)


def test_a_good_checkpoint_passes(checkpoint):
    inspection = inspect_folder(checkpoint)
    assert inspection.passed and inspection.num_scales == 28
    assert inspection.tensor_bytes == inspection.expected_bytes
    assert inspection.file_bytes == (checkpoint / "model.safetensors").stat().st_size


def test_a_sparse_checkpoint_has_zero_scales(tmp_path):
    config = read_json("models/qwen2.5-0.5b.json")["config"]
    groups = formats.store(inventory(read_spec(config, "x")), formats.W4A16)
    write_checkpoint(tmp_path, quantized_config(config, formats.W4A16), groups, fill="sparse")
    assert "scales are zero" in problems(tmp_path)


def test_configs_that_are_no_awq(checkpoint):
    section = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    edit_config(checkpoint, quantization_config={**section, "zero_point": False})
    assert "zero_point" in problems(checkpoint)
    edit_config(checkpoint, quantization_config=None)
    assert "no quantization_config" in problems(checkpoint)
    edit_config(checkpoint, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "says gptq" in problems(checkpoint)


def test_shapes_against_the_config(checkpoint):
    edit_config(checkpoint, num_hidden_layers=5)
    assert "missing" in problems(checkpoint)
    edit_config(checkpoint, num_hidden_layers=3)
    inspection = inspect_folder(checkpoint)
    assert inspection.passed and "more tensors" in inspection.notes[0]
    edit_config(checkpoint, num_hidden_layers=4, intermediate_size=1024)
    assert "stored as" in problems(checkpoint)


def test_files_that_are_broken_or_gone(checkpoint):
    path = checkpoint / "model.safetensors"
    os.truncate(path, path.stat().st_size - 10)
    assert "truncated" in problems(checkpoint)
    path.write_bytes(b"")
    assert "truncated" in problems(checkpoint)
    path.unlink()
    assert "no weights" in problems(checkpoint)


def test_the_command(checkpoint, lmplan, tmp_path):
    done = lmplan("inspect", "awq")
    assert done.returncode == 0 and "passed" in done.stdout
    answer = json.loads(lmplan("inspect", "awq", "--json").stdout)
    assert answer["passed"] and answer["num_scales"] == 28
    assert (answer["quantization"]["method"], answer["quantization"]["group_size"]) == ("awq", 128)
    (checkpoint / "tokenizer.json").unlink()
    done = lmplan("inspect", "awq")
    assert done.returncode == 7 and "no tokenizer" in done.stderr
    assert lmplan("inspect", "nowhere").returncode == 2
    (tmp_path / "empty").mkdir()
    done = lmplan("inspect", "empty")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_manifests_that_cannot_be_read_are_none(tmp_path):
    assert read_manifest(tmp_path) is None
    for text in ("", "[]", "{"):
        (tmp_path / "lmplan.json").write_text(text)
        assert read_manifest(tmp_path) is None
