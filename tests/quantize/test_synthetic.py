"""Drawn checkpoints: exact headers, no disk when sparse, the same values for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from planner.data import read_json
from planner.errors import UsageError
from planner.model import formats
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.rewrite import quantized_config
from planner.model.tensors import size_bytes
from quantize.checkpoint.stand_ins import NUM_TOKENS
from quantize.checkpoint.synthetic import MARK, is_synthetic, safetensors_header, write_checkpoint

TINY = json.loads((Path(__file__).parents[2] / "quantize/data/tiny-llama.json").read_text())


def tiny_groups():
    return inventory(read_spec(TINY, "tiny-llama"))


def test_sparse_file_has_its_length_and_takes_no_disk(tmp_path):
    config = read_json("models/llama-3.1-8b.json")["config"]
    groups = formats.store(inventory(read_spec(config, "x")), formats.W4A16)
    path = write_checkpoint(tmp_path, quantized_config(config, formats.W4A16), groups, fill="sparse")
    header, data_bytes = safetensors_header(groups)
    assert data_bytes == size_bytes(groups) == 5_727_854_592
    assert path.stat().st_size == len(header) + data_bytes
    assert path.stat().st_blocks * 512 < 2**20


def test_safetensors_reads_names_and_shapes(tmp_path):
    pytest.importorskip("numpy")
    path = write_checkpoint(tmp_path, TINY, tiny_groups(), fill="drawn")
    with safe_open(path, framework="np") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert found == {t.name: t.shape for g in tiny_groups() for t in g.expand()}


def test_random_values_depend_on_the_seed_alone(tmp_path):
    files = [
        write_checkpoint(tmp_path / str(i), TINY, tiny_groups(), fill="drawn", seed=seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1] != files[2]


def test_random_weights_are_small_and_norms_near_one(tmp_path):
    numpy = pytest.importorskip("numpy")
    path = write_checkpoint(tmp_path, TINY, tiny_groups(), fill="drawn")
    with safe_open(path, framework="np") as file:
        weight = file.get_tensor("model.layers.0.self_attn.q_proj.weight").astype(numpy.float32)
        norm = file.get_tensor("model.norm.weight").astype(numpy.float32)
    assert abs(weight.std() - 0.02) < 0.002
    assert abs(norm.mean() - 1) < 0.01


def test_every_drawn_checkpoint_is_marked(tmp_path):
    write_checkpoint(tmp_path, TINY, tiny_groups(), fill="sparse")
    assert is_synthetic(tmp_path)
    assert "never serve" in (tmp_path / MARK).read_text()


def test_quantized_config_names_the_format():
    section = quantized_config(TINY, formats.W4A16)["quantization_config"]
    assert section == {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": True}


def test_remote_code_configs_get_a_stand_in(tmp_path):
    config = read_json("models/internvl2-2b.json")["config"]
    write_checkpoint(tmp_path, config, inventory(read_spec(config, "x")), fill="sparse")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["auto_map"] == {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    for name in ("configuration_internvl_chat.py", "configuration_internlm2.py"):
        compile((tmp_path / name).read_text(), name, "exec")


def test_tokenizer_has_a_token_for_every_byte(tmp_path):
    write_checkpoint(tmp_path, TINY, tiny_groups(), fill="sparse")
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == NUM_TOKENS
    assert sorted(vocabulary.values()) == list(range(NUM_TOKENS))


def test_too_small_a_vocabulary_is_refused(tmp_path):
    small = {**TINY, "vocab_size": 100}
    with pytest.raises(UsageError, match="at least 262"):
        write_checkpoint(tmp_path, small, inventory(read_spec(small, "small")), fill="sparse")
