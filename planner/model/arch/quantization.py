"""``quantization_config`` -> Quantization."""

from __future__ import annotations

from typing import Final, NoReturn

from planner.errors import UnsupportedModelError
from planner.kinds import assert_never
from planner.model.arch.common import NESTED
from planner.model.dtypes import DType
from planner.model.fields import Fields
from planner.model.quantization import Quantization, QuantMethod

_TAKEN: Final = "LMDeploy takes " + ", ".join(method.value for method in QuantMethod)
_FP8_DTYPES: Final = {"e4m3": DType.F8_E4M3, "e5m2": DType.F8_E5M2}
"""``fmt`` (`lmdeploy/pytorch/config.py`, QuantizationConfig.from_config, 0.18.0)."""
_SMOOTH_DTYPES: Final = {"int8": DType.I8, "float8_e4m3fn": DType.F8_E4M3, "float8_e5m2": DType.F8_E5M2}
"""``quant_dtype`` (`lmdeploy/lite/apis/smooth_quant.py`, 0.18.0)."""
_MX_GROUP: Final = 32
_FOUR_BITS: Final = 4


def read_quantization(fields: Fields) -> Quantization | None:
    """How the checkpoint is quantized, or None.

    Raises:
        ConfigError: a key of the section is missing or of the wrong type.
        UnsupportedModelError: a method or variant that LMDeploy refuses
            (`lmdeploy/turbomind/converter.py`, get_tm_config, and `lmdeploy/pytorch/config.py`, 0.18.0).
    """
    for holder in (fields, *(fields.section(name) for name in NESTED if fields.has(name))):
        if holder.has("quantization_config"):
            return _read(holder.section("quantization_config"))
    return None


def _read(section: Fields) -> Quantization:
    if section.has("quant_algo") and not section.has("quant_method"):
        refuse_modelopt(section.text("quant_algo"))
    name = section.text("quant_method")
    method = next((method for method in QuantMethod if method.value == name), None)
    # LMDeploy reads both keys (`lmdeploy/pytorch/config.py`, QuantizationConfig.from_config, 0.18.0).
    unquantized = section.texts("ignored_layers") or section.texts("modules_to_not_convert")
    match method:
        case QuantMethod.AWQ:
            version = section.text("version").lower()
            if version != "gemm":
                raise UnsupportedModelError(f"AWQ version {version!r} is not served by LMDeploy; it takes gemm")
            return Quantization(method, _four_bits(section), _group_size(section), unquantized)
        case QuantMethod.GPTQ:
            if section.boolean("desc_act", False) or not section.boolean("sym", True):
                raise UnsupportedModelError("GPTQ with desc_act true or sym false is not served by LMDeploy")
            return Quantization(method, _four_bits(section), _group_size(section), unquantized)
        case QuantMethod.FP8:
            return _fp8(section, unquantized)
        case QuantMethod.MXFP4:
            return Quantization(method, _FOUR_BITS, _MX_GROUP, unquantized)
        case QuantMethod.COMPRESSED_TENSORS:
            return _compressed(section)
        case QuantMethod.SMOOTH_QUANT:
            word = section.choice("quant_dtype", tuple(_SMOOTH_DTYPES)) if section.has("quant_dtype") else "int8"
            return Quantization(method, 8, 0, unquantized, weight_dtype=_SMOOTH_DTYPES[word])
        case None:
            if name == "modelopt":
                refuse_modelopt(section.text("quant_algo") if section.has("quant_algo") else "")
            raise UnsupportedModelError(f"LMDeploy does not serve weights of the method {name!r}", _TAKEN)
        case _:
            assert_never(method)


def refuse_modelopt(algorithm: str) -> NoReturn:
    """Refuse what NVIDIA's ModelOpt wrote, into the config.json or beside it as hf_quant_config.json.

    Raises:
        UnsupportedModelError: always.
    """
    what = f"ModelOpt's {algorithm}" if algorithm else "ModelOpt's weights"
    raise UnsupportedModelError(f"LMDeploy does not serve {what}: neither of its engines reads the format", _TAKEN)


def _fp8(section: Fields, unquantized: tuple[str, ...]) -> Quantization:
    fmt = section.text("fmt") if section.has("fmt") else "e4m3"
    if fmt not in _FP8_DTYPES:
        raise UnsupportedModelError(f"fp8 of the form {fmt!r} is not served by LMDeploy; it takes e4m3 and e5m2")
    blocks, dtype = section.integers("weight_block_size"), _FP8_DTYPES[fmt]
    static = section.has("activation_scheme") and section.text("activation_scheme") == "static"
    if not blocks and static:
        return Quantization(QuantMethod.FP8, 8, 0, unquantized, static=True, weight_dtype=dtype)
    if len(blocks) != 2 or blocks[0] != blocks[1] or blocks[0] < 1:
        raise UnsupportedModelError(
            f"fp8 without square blocks (weight_block_size {list(blocks)}) and without static scales is not served by "
            "LMDeploy"
        )
    return Quantization(QuantMethod.FP8, 8, blocks[0], unquantized, static=static, weight_dtype=dtype)


def _compressed(section: Fields) -> Quantization:
    """compressed-tensors: packed 4-bit integers in groups, one group of settings for all linears."""
    groups = section.section("config_groups")
    if set(groups.values) != {"group_0"}:
        raise UnsupportedModelError(
            f"compressed-tensors with {', '.join(sorted(groups.values)) or 'no group'} is not served by LMDeploy; it "
            "takes one group_0"
        )
    group = groups.section("group_0")
    form = (group if group.has("format") else section).text("format")
    if form != "pack-quantized":
        raise UnsupportedModelError(
            f"compressed-tensors of the format {form} are not served by LMDeploy; it takes pack-quantized int4",
            "Serve the 16-bit model, with --weights fp8 where 8 bits are wanted" if form == "float-quantized" else "",
        )
    weights = group.section("weights")
    bits, kind = weights.integer("num_bits", maximum=16), weights.text("type")
    if bits != _FOUR_BITS or kind != "int":
        raise UnsupportedModelError(
            f"compressed-tensors of {bits}-bit {kind} weights are not served by LMDeploy; it takes 4-bit int"
        )
    if not weights.boolean("symmetric", True) or group.has("input_activations"):
        raise UnsupportedModelError(
            "compressed-tensors with zero points or quantized activations are not served by LMDeploy"
        )
    return Quantization(
        QuantMethod.COMPRESSED_TENSORS, bits, weights.integer("group_size", maximum=2**14), section.texts("ignore")
    )


def _four_bits(section: Fields) -> int:
    bits = section.integer("bits", maximum=16)
    if bits != _FOUR_BITS:
        raise UnsupportedModelError(f"{bits}-bit weights are not served by LMDeploy; it takes 4 bits")
    return bits


def _group_size(section: Fields) -> int:
    return section.integer("group_size", maximum=2**14)
