"""How the tensors of an inventory are stored: as they are, AWQ or GPTQ with groups, fp8 with blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from planner.errors import ConfigError, UnsupportedModelError
from planner.kinds import WeightsChoice, assert_never
from planner.model.dtypes import DType
from planner.model.held_out import held_out_layers, without_routers
from planner.model.spec import ModelSpec, Quantization, QuantMethod
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup
from planner.units import ceil_div

W4A16 = Quantization(method=QuantMethod.AWQ, bits=4, group_size=128)
"""What `lmdeploy lite auto_awq` writes at its defaults (`lmdeploy/lite/apis/auto_awq.py`, w_bits and w_group_size)."""
FP8 = Quantization(method=QuantMethod.FP8, bits=8, group_size=128)
"""Blocked fp8 as published checkpoints have it (Qwen3-8B-FP8, weight_block_size), the one block that LMDeploy takes
(`lmdeploy/turbomind/converter.py`, 0.18.0). LMDeploy has no tool that writes it for TurboMind."""

_PACKED_PER_INT32 = 8
_WEIGHT = ".weight"


def divide(groups: Iterable[TensorGroup], quantization: Quantization) -> Iterator[tuple[TensorGroup, bool]]:
    """The groups in their order, each with whether the format replaces it.

    Two-dimensional linears of decoder layers are replaced, but for what the checkpoint holds out. A group of which some
    layers are held out comes as two.
    """
    groups = tuple(groups)
    routers = [group.name.removesuffix(_WEIGHT) for group in groups if group.role is Role.ROUTER]
    entries = without_routers(quantization.unquantized, routers)
    for group in groups:
        if group.role not in LINEAR_ROLES or len(group.shape) != 2:
            yield group, False
            continue
        layers = group.layers or (0,)
        held = held_out_layers(group.name.removesuffix(_WEIGHT), layers, entries)
        if not held:
            yield group, True
        elif len(held) == len(layers):
            yield group, False
        else:
            yield replace(group, layers=tuple(layer for layer in layers if layer in held)), False
            yield replace(group, layers=tuple(layer for layer in layers if layer not in held)), True


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
    for group, replaced in divide(groups, quantization):
        stored += _replace(group, quantization) if replaced else (group,)
    return tuple(stored)


def _replace(group: TensorGroup, quantization: Quantization) -> Iterator[TensorGroup]:
    num_out, num_in = group.shape
    size = quantization.group_size
    stem = group.name.removesuffix(_WEIGHT)

    def tensor(suffix: str, shape: tuple[int, ...], dtype: DType) -> TensorGroup:
        return replace(group, name=f"{stem}.{suffix}", shape=shape, dtype=dtype)

    def qzeros() -> TensorGroup:
        if num_in % size or num_out % _PACKED_PER_INT32:
            raise UnsupportedModelError(
                f"{group.name.format(layer=0, expert=0)} is {num_out} x {num_in}: groups of {size} inputs and "
                f"{_PACKED_PER_INT32} outputs to a word do not divide it, so it cannot be {quantization.method}"
            )
        return tensor("qzeros", (num_in // size, num_out // _PACKED_PER_INT32), DType.I32)

    match quantization.method:
        case QuantMethod.FP8:
            yield tensor("weight", group.shape, DType.F8_E4M3)
            # Qwen3's published fp8 checkpoints keep the block scales in the model's own float type.
            yield tensor("weight_scale_inv", (ceil_div(num_out, size), ceil_div(num_in, size)), group.dtype)
        case QuantMethod.AWQ:
            zeros = qzeros()
            yield tensor("qweight", (num_in, num_out // _PACKED_PER_INT32), DType.I32)
            yield zeros
            # LMDeploy's awq keeps the dtype that it loaded; AutoGPTQ always writes fp16.
            yield tensor("scales", (num_in // size, num_out), group.dtype)
        case QuantMethod.GPTQ:
            zeros = qzeros()
            yield tensor("qweight", (num_in // _PACKED_PER_INT32, num_out), DType.I32)
            yield zeros
            yield tensor("scales", (num_in // size, num_out), DType.F16)
            yield tensor("g_idx", (num_in,), DType.I32)
        case _:
            assert_never(quantization.method)


def choose(spec: ModelSpec, weights: WeightsChoice) -> Quantization | None:
    """The storage format for ``--weights``: ``as-is`` keeps the checkpoint's, ``w4a16`` is AWQ, ``fp8`` blocked fp8.

    Raises:
        ConfigError: another format for a checkpoint that is quantized already.
    """
    match weights:
        case WeightsChoice.AS_IS:
            return spec.quantization
        case WeightsChoice.W4A16:
            quantization, methods = W4A16, {QuantMethod.AWQ, QuantMethod.GPTQ}
        case WeightsChoice.FP8:
            quantization, methods = FP8, {QuantMethod.FP8}
        case _:
            assert_never(weights)
    if spec.quantization is None:
        return quantization
    if spec.quantization.method in methods:
        return spec.quantization
    raise ConfigError(
        f"{spec.name} is quantized already ({spec.quantization.method}); {weights} starts from 16-bit weights",
        "Plan the 16-bit model instead, or use --weights as-is",
    )
