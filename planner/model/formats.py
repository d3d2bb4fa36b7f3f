"""How the tensors of an inventory are stored: as they are, in 4 bits with groups, in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from planner.errors import ConfigError, UnsupportedModelError
from planner.kinds import WeightsChoice, assert_never
from planner.model.dtypes import DType
from planner.model.held_out import held_out_layers, without_routers
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup
from planner.units import ceil_div

W4A16 = Quantization(method=QuantMethod.AWQ, bits=4, group_size=128)
"""What `lmdeploy lite auto_awq` writes at its defaults (`lmdeploy/lite/apis/auto_awq.py`, w_bits and w_group_size)."""
FP8 = Quantization(method=QuantMethod.FP8, bits=8, group_size=128)
"""Blocked fp8 as published checkpoints have it (Qwen3-8B-FP8, weight_block_size), the one block that LMDeploy takes
(`lmdeploy/turbomind/converter.py`, 0.18.0). LMDeploy has no tool that writes it for TurboMind."""

_PACKED_PER_INT32 = 8
_WEIGHT = ".weight"
_PACKED_SIDES = 3
"""Sides of a tensor that holds every expert of a layer."""
_MX_GROUP = 32
"""Inputs that share a scale of 8 bits in mxfp4 (OCP Microscaling Formats 1.0, section 5.2)."""


def divide(groups: Iterable[TensorGroup], quantization: Quantization) -> Iterator[tuple[TensorGroup, bool]]:
    """The groups in their order, each with whether the format replaces it.

    Linears of decoder layers are replaced, packed experts among them, but for what the checkpoint holds out. A group of
    which some layers are held out comes as two.
    """
    groups = tuple(groups)
    routers = [group.name.removesuffix(_WEIGHT) for group in groups if group.role is Role.ROUTER]
    entries = without_routers(quantization.unquantized, routers)
    for group in groups:
        if not _is_linear(group) or (quantization.method is QuantMethod.MXFP4 and len(group.shape) != _PACKED_SIDES):
            yield group, False
            continue
        layers = group.layers or (0,)
        held = held_out_layers(group.name.removesuffix(_WEIGHT), layers, entries)
        if not held:
            yield group, True
        elif len(held) == len(layers):
            yield group, False
        else:
            yield group._replace(layers=tuple(layer for layer in layers if layer in held)), False
            yield group._replace(layers=tuple(layer for layer in layers if layer not in held)), True


def _is_linear(group: TensorGroup) -> bool:
    if group.role not in LINEAR_ROLES:
        return False
    return len(group.shape) == _PACKED_SIDES or (len(group.shape) == 2 and group.name.endswith(_WEIGHT))


def store(groups: tuple[TensorGroup, ...], quantization: Quantization | None) -> tuple[TensorGroup, ...]:
    """The tensors as a checkpoint of that format stores them.

    Shapes, in storage order, of what replaces a linear [out, in] (b: the side of a block, g: inputs of a group):
        awq: qweight int32 [in, out/8], qzeros int32 [in/g, out/8], scales [in/g, out] in fp16 or the load dtype
        gptq: qweight int32 [in/8, out], qzeros int32 [in/g, out/8], scales fp16 [in/g, out], g_idx int32 [in]
        fp8: weight e4m3 [out, in], weight_scale_inv [ceil(out/b), ceil(in/b)]; without blocks weight_scale and, where
            it is static, input_scale, one number each
        compressed-tensors: weight_packed int32 [out, in/8], weight_scale [out, in/g], weight_shape int32 [2]
        smooth_quant: weight int8 or fp8 [out, in], scale float32 [out, 1]
    Of packed experts [experts, in, out] mxfp4 makes blocks uint8 [experts, out, in/32, 16] and scales uint8
    [experts, out, in/32], and touches nothing else.

    Raises:
        UnsupportedModelError: a side of a linear that the group size or the packing does not divide, or packed experts
            in a format that is not known to store such.
    """
    if quantization is None:
        return groups
    stored: list[TensorGroup] = []
    for group, replaced in divide(groups, quantization):
        stored += _replace(group, quantization) if replaced else (group,)
    return tuple(stored)


def _replace(group: TensorGroup, quantization: Quantization) -> Iterator[TensorGroup]:
    method, size = quantization.method, quantization.group_size
    if method is QuantMethod.MXFP4:
        yield from _microscaled(group)
        return
    *experts, num_out, num_in = group.shape
    if experts and method is not QuantMethod.FP8:
        raise UnsupportedModelError(
            f"{group.name.format(layer=0)} holds all experts of a layer; {method} is not known to store such a tensor"
        )
    stem = group.name.removesuffix(_WEIGHT)

    def tensor(suffix: str, shape: tuple[int, ...], dtype: DType) -> TensorGroup:
        return group._replace(name=f"{stem}.{suffix}", shape=shape, dtype=dtype)

    def divided(num_outputs: int = 1) -> int:
        """Groups of inputs; `num_outputs` are packed to a word."""
        if num_in % size or num_out % num_outputs:
            outputs = f" and {num_outputs} outputs to a word do" if num_outputs > 1 else " does"
            raise UnsupportedModelError(
                f"{group.name.format(layer=0, expert=0)} is {num_out} x {num_in}: groups of {size} inputs{outputs} "
                f"not divide it, so it cannot be {method}"
            )
        return num_in // size

    match method:
        case QuantMethod.FP8:
            yield from _fp8(group, quantization)
        case QuantMethod.AWQ:
            groups = divided(_PACKED_PER_INT32)
            yield tensor("qweight", (num_in, num_out // _PACKED_PER_INT32), DType.I32)
            yield tensor("qzeros", (groups, num_out // _PACKED_PER_INT32), DType.I32)
            # LMDeploy's awq keeps the dtype that it loaded; AutoGPTQ always writes fp16.
            yield tensor("scales", (groups, num_out), group.dtype)
        case QuantMethod.GPTQ:
            groups = divided(_PACKED_PER_INT32)
            yield tensor("qweight", (num_in // _PACKED_PER_INT32, num_out), DType.I32)
            yield tensor("qzeros", (groups, num_out // _PACKED_PER_INT32), DType.I32)
            yield tensor("scales", (groups, num_out), DType.F16)
            yield tensor("g_idx", (num_in,), DType.I32)
        case QuantMethod.COMPRESSED_TENSORS:
            groups = divided()
            yield tensor("weight_packed", (num_out, num_in // _PACKED_PER_INT32), DType.I32)
            yield tensor("weight_scale", (num_out, groups), group.dtype)
            yield tensor("weight_shape", (2,), DType.I32)
        case QuantMethod.SMOOTH_QUANT:
            yield tensor("weight", group.shape, quantization.weight_dtype)
            yield tensor("scale", (num_out, 1), DType.F32)
        case _:
            assert_never(method)


def _fp8(group: TensorGroup, quantization: Quantization) -> Iterator[TensorGroup]:
    """Packed experts keep their name and have their scales beside them."""
    *experts, num_out, num_in = group.shape
    size, stem = quantization.group_size, group.name.removesuffix(_WEIGHT)
    joint = "_" if experts else "."
    yield group._replace(dtype=quantization.weight_dtype)
    if size:
        # Qwen3's published fp8 checkpoints keep the block scales in the model's own float type.
        shape = (*experts, ceil_div(num_out, size), ceil_div(num_in, size))
        name = f"{stem}{joint}scale_inv" if experts else f"{stem}.weight_scale_inv"
        yield group._replace(name=name, shape=shape, dtype=quantization.scale_dtype or group.dtype)
        return
    for name in ("weight_scale", "input_scale") if quantization.static else ("weight_scale",):
        yield group._replace(name=f"{stem}{joint}{name}", shape=tuple(experts), dtype=DType.F32)


def _microscaled(group: TensorGroup) -> Iterator[TensorGroup]:
    """Packed experts [experts, in, out] in mxfp4, the one form that is published (gpt-oss)."""
    num_experts, num_in, num_out = group.shape
    if num_in % _MX_GROUP:
        raise UnsupportedModelError(
            f"{group.name.format(layer=0)} has {num_in} inputs, which groups of {_MX_GROUP} do not divide"
        )
    blocks = (num_experts, num_out, num_in // _MX_GROUP)
    yield group._replace(name=f"{group.name}_blocks", shape=(*blocks, _MX_GROUP // 2), dtype=DType.U8)
    yield group._replace(name=f"{group.name}_scales", shape=blocks, dtype=DType.U8)


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
