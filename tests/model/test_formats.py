"""How formats replace linears: shapes by hand, bytes by published files."""

from __future__ import annotations

import pytest

from planner.errors import ConfigError, UnsupportedModelError
from planner.model import catalog
from planner.model.arch.registry import read_spec
from planner.model.dtypes import DType
from planner.model.formats import W4A16, choose, divide, store
from planner.model.inventory import inventory
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup, num_parameters, size_bytes

LINEAR = TensorGroup("model.layers.{layer}.mlp.up_proj.weight", (512, 256), DType.BF16, Role.MLP, (0, 1))
GPTQ = Quantization(QuantMethod.GPTQ, 4, 128)
FP8 = Quantization(QuantMethod.FP8, 8, 128)


def spec_of(name: str) -> ModelSpec:
    entry = catalog.load(name)
    assert entry is not None
    return read_spec(entry.config, name)


def shapes(quantization: Quantization, group: TensorGroup = LINEAR) -> dict[str, tuple[tuple[int, ...], DType]]:
    return {
        tensor.name.removeprefix("model.layers.{layer}.mlp.up_proj."): (tensor.shape, tensor.dtype)
        for tensor in store((group,), quantization)
    }


def test_awq() -> None:
    assert shapes(W4A16) == {
        "qweight": ((256, 64), DType.I32),
        "qzeros": ((2, 64), DType.I32),
        "scales": ((2, 512), DType.BF16),
    }


def test_gptq() -> None:
    assert shapes(GPTQ) == {
        "qweight": ((32, 512), DType.I32),
        "qzeros": ((2, 64), DType.I32),
        "scales": ((2, 512), DType.F16),
        "g_idx": ((256,), DType.I32),
    }


def test_fp8() -> None:
    assert shapes(FP8) == {"weight": ((512, 256), DType.F8_E4M3), "weight_scale_inv": ((4, 2), DType.BF16)}
    ragged = TensorGroup("x.weight", (130, 1), DType.BF16, Role.MLP)
    assert [tensor.shape for tensor in store((ragged,), FP8)] == [(130, 1), (2, 1)]


def test_groups_keep_their_layers_and_experts() -> None:
    experts = TensorGroup("l.{layer}.e.{expert}.weight", (512, 256), DType.F16, Role.EXPERT, (3, 4), 8)
    for quantization in (W4A16, GPTQ, FP8):
        assert {(t.layers, t.num_experts, t.role) for t in store((experts,), quantization)} == {
            ((3, 4), 8, Role.EXPERT)
        }


def test_no_format_changes_nothing() -> None:
    groups = inventory(spec_of("qwen3-8b"))
    assert store(groups, None) is groups


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen2.5-7b", "mixtral-8x7b", "qwen2-57b-a14b", "internvl2-8b"])
def test_only_linears_of_decoder_layers_are_replaced(name: str) -> None:
    groups = inventory(spec_of(name))
    kept = set(store(groups, W4A16)) & set(groups)
    assert {group.role for group in set(groups) - kept} <= LINEAR_ROLES
    assert all(len(group.shape) == 2 for group in set(groups) - kept)
    biases = [group for group in groups if group.name.endswith(".bias")]
    assert kept.issuperset(biases)


def test_modules_that_the_checkpoint_holds_out_are_kept() -> None:
    held_out = Quantization(QuantMethod.AWQ, 4, 128, unquantized=("up_proj",))
    assert list(divide((LINEAR,), held_out)) == [(LINEAR, False)]
    assert store((LINEAR,), held_out) == (LINEAR,)


@pytest.mark.parametrize("shape", [(512, 200), (12, 256)])
def test_sides_that_groups_do_not_divide(shape: tuple[int, int]) -> None:
    group = TensorGroup("model.layers.{layer}.mlp.up_proj.weight", shape, DType.F16, Role.MLP, (0,))
    for quantization in (W4A16, GPTQ):
        with pytest.raises(UnsupportedModelError, match=rf"layers.0.mlp.up_proj.weight is {shape[0]} x {shape[1]}"):
            store((group,), quantization)


def test_the_published_fp8_file_of_qwen3_30b_a3b() -> None:
    """By the count of each dtype that the Hub publishes for it: BF16 636,948,480 and F8_E4M3 29,896,998,912.

    The block scales are among the BF16 elements; as F32 they would be counted apart.
    """
    spec = spec_of("qwen3-30b-a3b-fp8")
    groups = store(inventory(spec), spec.quantization)
    counts = {dtype: sum(group.num_elements for group in groups if group.dtype is dtype) for dtype in DType}
    assert counts[DType.F8_E4M3] == 29_896_998_912
    assert counts[DType.BF16] == 636_948_480
    assert num_parameters(groups) == 29_896_998_912 + 636_948_480
    assert size_bytes(groups) == 31_170_895_872


def test_the_published_block_scales_of_qwen3_1_7b_fp8() -> None:
    """Its header holds 196 weight_scale_inv, all BF16, layer 0's down_proj [16, 48] (modular/modular issue 7142)."""
    scales = [group for group in store(inventory(spec_of("qwen3-1.7b")), FP8) if "weight_scale_inv" in group.name]
    assert sum(group.num_tensors for group in scales) == 196
    assert {group.dtype for group in scales} == {DType.BF16}
    assert next(group.shape for group in scales if "down_proj" in group.name) == (16, 48)


def test_the_format_that_weights_means() -> None:
    plain, awq, fp8 = (
        spec_of("qwen3-8b"),
        ModelSpec("m", "a", DType.F16, spec_of("qwen3-8b").text, quantization=Quantization(QuantMethod.AWQ, 4, 64)),
        spec_of("qwen3-8b-fp8"),
    )
    assert choose(plain, "as-is") is None
    assert choose(plain, "w4a16") == W4A16
    assert choose(awq, "as-is") == choose(awq, "w4a16") == Quantization(QuantMethod.AWQ, 4, 64)
    assert choose(fp8, "as-is") == Quantization(QuantMethod.FP8, 8, 128)
    with pytest.raises(ConfigError, match="quantized already"):
        choose(fp8, "w4a16")
