"""How the tensors of an inventory are stored: as they are, AWQ or GPTQ with groups, fp8 with blocks."""

from __future__ import annotations

from collections.abc import Iterator

from planner.errors import ConfigError, UnsupportedModelError
from planner.kinds import WeightsChoice, assert_never
from planner.model.dtypes import DType
from planner.model.spec import ModelSpec, Quantization
from planner.model.tensors import LINEAR_ROLES, TensorGroup
from planner.units import ceil_div

W4A16 = Quantization(method="awq", bits=4, group_size=128)
"""What `lmdeploy lite auto_awq` writes at its defaults (`lmdeploy/lite/apis/auto_awq.py`, w_bits and w_group_size)."""
FP8 = Quantization(method="fp8", bits=8, group_size=128)
"""Blocked fp8 as published checkpoints have it (Qwen3-8B-FP8, weight_block_size), the one block that LMDeploy takes
(`lmdeploy/turbomind/converter.py`, 0.18.0). LMDeploy has no tool that writes it for TurboMind."""

_PACKED_PER_INT32 = 8


def is_quantized(group: TensorGroup, quantization: Quantization) -> bool:
    """Whether the format replaces this tensor: a two-dimensional linear of a decoder layer not held out."""
    if group.role not in LINEAR_ROLES or len(group.shape) != 2:
        return False
    return not any(module in group.name for module in quantization.unquantized)


def store(groups: tuple[TensorGroup, ...], quantization: Quantization | None) -> tuple[TensorGroup, ...]:
    """The tensors as a checkpoint of that format stores them.

    Shapes, in storage order, of what replaces a linear [out, in]:
        awq: qweight int32 [in, out/8], qzeros int32 [in/g, out/8], scales [in/g, out] in fp16 or the load dtype
        gptq: qweight int32 [in/8, out], qzeros int32 [in/g, out/8], scales fp16 [in/g, out], g_idx int32 [in]
        fp8: weight e4m3 [out, in], weight_scale_inv [ceil(out/b), ceil(in/b)]

    Raises:
        UnsupportedModelError: a side of a linear that the group size or the packing does not divide.
    """
    if quantization is None:
        return groups
    stored: list[TensorGroup] = []
    for group in groups:
        stored += _replace(group, quantization) if is_quantized(group, quantization) else (group,)
    return tuple(stored)


def _replace(group: TensorGroup, quantization: Quantization) -> Iterator[TensorGroup]:
    num_out, num_in = group.shape
    size = quantization.group_size
    stem = group.name.removesuffix(".weight")

    def tensor(suffix: str, shape: tuple[int, ...], dtype: DType) -> TensorGroup:
        return TensorGroup(f"{stem}.{suffix}", shape, dtype, group.role, group.layers, group.num_experts)

    if quantization.method == "fp8":
        yield tensor("weight", group.shape, DType.F8_E4M3)
        # Qwen3's published fp8 checkpoints keep the block scales in the model's own float type.
        yield tensor("weight_scale_inv", (ceil_div(num_out, size), ceil_div(num_in, size)), group.dtype)
        return
    if num_in % size or num_out % _PACKED_PER_INT32:
        raise UnsupportedModelError(
            f"{group.name.format(layer=0, expert=0)} is {num_out} x {num_in}: groups of {size} inputs and "
            f"{_PACKED_PER_INT32} outputs to a word do not divide it, so it cannot be {quantization.method}"
        )
    # LMDeploy's awq keeps the dtype that it loaded; AutoGPTQ always writes fp16.
    scales = tensor("scales", (num_in // size, num_out), group.dtype)
    qzeros = tensor("qzeros", (num_in // size, num_out // _PACKED_PER_INT32), DType.I32)
    if quantization.method == "awq":
        yield tensor("qweight", (num_in, num_out // _PACKED_PER_INT32), DType.I32)
        yield qzeros
        yield scales
        return
    assert quantization.method == "gptq", quantization
    yield tensor("qweight", (num_in // _PACKED_PER_INT32, num_out), DType.I32)
    yield qzeros
    yield tensor("scales", scales.shape, DType.F16)
    yield tensor("g_idx", (num_in,), DType.I32)


def choose(spec: ModelSpec, weights: WeightsChoice) -> Quantization | None:
    """The storage format for ``--weights``: ``as-is`` keeps the checkpoint's, ``w4a16`` is AWQ, ``fp8`` blocked fp8.

    Raises:
        ConfigError: another format for a checkpoint that is quantized already.
    """
    match weights:
        case WeightsChoice.AS_IS:
            return spec.quantization
        case WeightsChoice.W4A16:
            made, methods = W4A16, {"awq", "gptq"}
        case WeightsChoice.FP8:
            made, methods = FP8, {"fp8"}
        case _:
            assert_never(weights)
    if spec.quantization is not None and spec.quantization.method in methods:
        return spec.quantization
    if spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantized already ({spec.quantization.method}); {weights} starts from 16-bit weights",
            "Plan the 16-bit model instead, or use --weights as-is",
        )
    return made
