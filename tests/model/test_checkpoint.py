"""Safetensors headers, and what they say against the arithmetic of config.json."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import UsageError
from planner.model import catalog
from planner.model.arch.registry import read_spec
from planner.model.checkpoint import Checkpoint, HeaderTensor, checkpoint_of, read_folder, read_header
from planner.model.dtypes import DType
from planner.model.formats import W4A16, store
from planner.model.inventory import inventory
from planner.model.reconcile import adopt, compare
from planner.model.tensors import Role, TensorGroup, size_bytes

Write = Callable[[Path, dict[str, tuple[str, list[int]]]], Path]


def groups_of(name: str) -> tuple[TensorGroup, ...]:
    entry = catalog.load(name)
    assert entry is not None
    spec = read_spec(entry.config, name)
    return store(inventory(spec), spec.quantization)


def checkpoint_like(groups: tuple[TensorGroup, ...]) -> Checkpoint:
    tensors = (HeaderTensor(t.name, t.shape, t.dtype) for group in groups for t in group.expand())
    return checkpoint_of({tensor.name: tensor for tensor in tensors}, "made")


def without(checkpoint: Checkpoint, *names: str) -> Checkpoint:
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in names}
    assert len(kept) == len(checkpoint.tensors) - len(names)
    return checkpoint_of(kept, checkpoint.source)


def with_tensors(checkpoint: Checkpoint, *tensors: HeaderTensor) -> Checkpoint:
    return checkpoint_of({**checkpoint.tensors, **{tensor.name: tensor for tensor in tensors}}, checkpoint.source)


def test_a_header_is_read(tmp_path: Path, write_safetensors: Write) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": ("BF16", [2, 3]), "b": ("F32", []), "c": ("I32", [0])})
    assert read_header(path) == (
        HeaderTensor("a", (2, 3), DType.BF16),
        HeaderTensor("b", (), DType.F32),
        HeaderTensor("c", (0,), DType.I32),
    )


def test_the_safetensors_library_agrees(tmp_path: Path, write_safetensors: Write) -> None:
    library = pytest.importorskip("safetensors")
    path = write_safetensors(tmp_path / "x.safetensors", {"a": ("BF16", [2, 3]), "b": ("F8_E4M3", [5])})
    names = [name for name, _ in library.deserialize(path.read_bytes())]
    assert sorted(names) == ["a", "b"]


def raw(header: object, data_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def entry(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4], **changes}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "truncated: 0 bytes do not hold its header"),
        (b"abc", "truncated: 3 bytes"),
        (raw(entry(), 4)[:20], "truncated: 20 bytes do not hold its header"),
        (raw(entry(), 3), "do not hold all its tensors"),
        (raw(entry(), 9), "has 5 bytes more than its header accounts for"),
        (struct.pack("<Q", 2**63) + b"x" * 50, "claims a header of 9223372036854775808 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (raw(b"not json"), "is not valid JSON"),
        (raw(b"\xff\xfe"), "is not UTF-8 text: byte 0"),
        (raw(b"[" * 100_000), "is nested too deeply"),
        (raw(b'{"a": 1, "a": 2}'), "gives the key 'a' twice"),
        (raw([1]), "holds a list; expected an object"),
        (raw({"a": 1}), "tensor 'a' lacks dtype"),
        (raw({"a": {"dtype": "F16", "shape": [2]}}), "tensor 'a' lacks dtype, shape or data_offsets"),
        (raw(entry(data_offsets=[0]), 4), "lacks dtype, shape or data_offsets"),
        (raw(entry(data_offsets=4), 4), "lacks dtype, shape or data_offsets"),
        (raw(entry(dtype="F4"), 4), "has dtype 'F4', which lmplan does not know"),
        (raw(entry(dtype=[]), 4), "has dtype '[]'"),
        (raw(entry(shape="2"), 4), "has a shape that is not a list of sizes"),
        (raw(entry(shape=[-2]), 4), "has a shape"),
        (raw(entry(shape=[True]), 4), "has a shape"),
        (raw(entry(shape=[2.0]), 4), "has a shape"),
        (raw(entry(shape=[2**60]), 4), "has a shape"),
        (raw(entry(data_offsets=[0, 5]), 5), "do not span its 4 bytes"),
        (raw(entry(data_offsets=[-4, 0]), 4), "do not span"),
        (raw(entry(data_offsets=["0", "4"]), 4), "do not span"),
        (raw(entry(data_offsets=[4, 8]), 8), "take 4 bytes but end at byte 8"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_header(path)
    assert expected in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_header(tmp_path / "x.safetensors")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert read_folder(tmp_path) is None
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert read_folder(tmp_path) is None


def test_a_folder_of_shards(tmp_path: Path, write_safetensors: Write) -> None:
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": ("F16", [4])})
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": ("F32", [4])})
    found = read_folder(tmp_path)
    assert found is not None
    assert (sorted(found.tensors), found.total_bytes, found.source) == (["a", "b"], 24, str(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"lacks model-00002-of-00002\.safetensors"):
        read_folder(tmp_path)


def test_other_copies_do_not_count(tmp_path: Path, write_safetensors: Write) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": ("F16", [4])})
    write_safetensors(tmp_path / "consolidated.safetensors", {"tok_embeddings.weight": ("F16", [4])})
    found = read_folder(tmp_path)
    assert found is not None
    assert sorted(found.tensors) == ["a"]


def test_a_tensor_in_two_files(tmp_path: Path, write_safetensors: Write) -> None:
    for name in ("one.safetensors", "two.safetensors"):
        write_safetensors(tmp_path / name, {"a": ("F16", [4])})
    with pytest.raises(UsageError, match=r"two\.safetensors holds a, which another file"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ('{"weight_map": {"a": "one.safetensors"}}', ""),
        ('{"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}', "one.safetensors lacks b, which"),
        ('{"weight_map": {"a": "one.safetensors", "b": "gone.safetensors"}}', "lacks gone.safetensors, which"),
        ('{"weight_map": {"a": "../one.safetensors"}}', "which is not a file name"),
        ('{"weight_map": {"a": 5}}', "which is not a file name"),
        ('{"weight_map": {}}', "has no weight_map"),
        ("{}", "has no weight_map"),
        ("[]", "holds a list; expected an object"),
        ("{", "is not valid JSON"),
    ],
)
def test_an_index(tmp_path: Path, write_safetensors: Write, index: str, expected: str) -> None:
    write_safetensors(tmp_path / "one.safetensors", {"a": ("F16", [4])})
    write_safetensors(tmp_path / "not-in-the-index.safetensors", {"z": ("F16", [4])})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    if not expected:
        found = read_folder(tmp_path)
        assert found is not None
        assert sorted(found.tensors) == ["a"]
        return
    with pytest.raises(UsageError) as caught:
        read_folder(tmp_path)
    assert expected in caught.value.message


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "internvl2-26b", "qwen3-8b-fp8"])
def test_a_checkpoint_as_the_config_says(name: str) -> None:
    groups = groups_of(name)
    checkpoint = checkpoint_like(groups)
    assert checkpoint.total_bytes == size_bytes(groups)
    assert compare(groups, checkpoint) == []
    assert adopt(groups, checkpoint) == groups


def test_missing_and_extra_tensors_are_said() -> None:
    groups = groups_of("llama-2-7b")
    checkpoint = without(
        checkpoint_like(groups), "model.layers.3.mlp.up_proj.weight", "model.layers.9.mlp.up_proj.weight"
    )
    rotary = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(32)]
    checkpoint = with_tensors(checkpoint, *(HeaderTensor(name, (64,), DType.F32) for name in rotary))
    lines = compare(groups, checkpoint)
    assert lines[0] == "model.layers.*.mlp.up_proj.weight: missing (2 of 32 tensors)"
    assert lines[1].startswith(
        "model.layers.*.self_attn.rotary_emb.inv_freq: stored, but not expected from config.json"
    )
    assert "32 tensors, 8.0 KiB" in lines[1]
    assert lines[2].startswith(f"together {checkpoint.total_bytes} bytes stored, {size_bytes(groups)} by config.json")
    assert len(lines) == 3
    adopted = adopt(groups, checkpoint)
    assert size_bytes(adopted) == checkpoint.total_bytes
    up = next(group for group in adopted if group.name.endswith("up_proj.weight"))
    assert (len(up.layers), up.role) == (30, Role.MLP)
    assert sum(group.role is Role.OTHER for group in adopted) == 32


def test_a_tied_head_that_is_stored_as_well_is_said() -> None:
    entry = catalog.load("qwen3-0.6b")
    assert entry is not None
    groups = groups_of("qwen3-0.6b")
    checkpoint = with_tensors(checkpoint_like(groups), HeaderTensor("lm_head.weight", (151936, 1024), DType.BF16))
    lines = compare(groups, checkpoint)
    assert lines[0] == "lm_head.weight: stored as well (296.8 MiB), though tie_word_embeddings makes it the embedding"
    adopted = adopt(groups, checkpoint)
    assert size_bytes(adopted) == checkpoint.total_bytes == 2 * entry.published["num_parameters"]
    assert adopted[-1].role is Role.OTHER


def test_another_shape_and_dtype_are_said() -> None:
    groups = groups_of("qwen2.5-0.5b")
    checkpoint = with_tensors(
        checkpoint_like(groups),
        HeaderTensor("model.norm.weight", (896,), DType.F32),
        HeaderTensor("model.layers.0.mlp.up_proj.weight", (8, 896), DType.BF16),
    )
    lines = compare(groups, checkpoint)
    assert lines[0] == "model.norm.weight: stored as 896 F32, by config.json 896 BF16"
    assert lines[1] == (
        "model.layers.*.mlp.up_proj.weight: stored as 8 x 896 BF16, by config.json 4864 x 896 BF16 (1 of 24 tensors)"
    )
    adopted = adopt(groups, checkpoint)
    assert size_bytes(adopted) == checkpoint.total_bytes
    assert groups[0]._replace(name="model.norm.weight", shape=(896,), dtype=DType.F32, role=Role.NORM) in adopted


def test_a_quantized_file_under_a_config_that_does_not_say_so() -> None:
    groups = groups_of("qwen3-30b-a3b")
    checkpoint = checkpoint_like(store(groups, W4A16))
    lines = compare(groups, checkpoint)
    assert 2 < len(lines) <= 14
    assert all(len(line) < 200 and "\n" not in line for line in lines)
    adopted = adopt(groups, checkpoint)
    assert size_bytes(adopted) == checkpoint.total_bytes


def test_experts_of_two_kinds_in_one_layer() -> None:
    groups = groups_of("mixtral-8x7b")
    odd = "model.layers.5.block_sparse_moe.experts.2.w1.weight"
    checkpoint = with_tensors(checkpoint_like(groups), HeaderTensor(odd, (14336, 4096), DType.F32))
    adopted = adopt(groups, checkpoint)
    assert size_bytes(adopted) == checkpoint.total_bytes
    again = {tensor.name: tensor for group in adopted for tensor in group.expand()}
    assert set(again) == set(checkpoint.tensors)
    assert all(again[name].shape == tensor.shape for name, tensor in checkpoint.tensors.items())
    assert all(again[name].dtype is tensor.dtype for name, tensor in checkpoint.tensors.items())
    assert again[odd].role is Role.EXPERT


def test_a_hundred_thousand_tensors_take_moments() -> None:
    groups = store(groups_of("qwen3-235b-a22b"), W4A16)
    checkpoint = checkpoint_like(groups)
    assert len(checkpoint.tensors) > 100_000
    unlike = groups_of("llama-3.1-8b")
    start = time.monotonic()
    assert compare(groups, checkpoint) == []
    assert adopt(groups, checkpoint) == groups
    assert len(compare(unlike, checkpoint)) < 15
    assert size_bytes(adopt(unlike, checkpoint)) == checkpoint.total_bytes
    # A quadratic walk would take hours; seconds leave room for any machine.
    assert time.monotonic() - start < 30
