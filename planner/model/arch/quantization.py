"""``quantization_config`` -> Quantization."""

from __future__ import annotations

from planner.errors import UnsupportedModelError, not_planned
from planner.kinds import assert_never
from planner.model.fields import Fields
from planner.model.quantization import Quantization, QuantMethod


def read_quantization(fields: Fields) -> Quantization | None:
    """How the checkpoint is quantized, or None.

    Raises:
        ConfigError: a key of the section is missing or of the wrong type.
        UnsupportedModelError: a method or variant that LMDeploy refuses
            (`lmdeploy/turbomind/converter.py`, `get_tm_config`, 0.18.0).
    """
    for holder in (fields, *(fields.section(n) for n in ("text_config", "llm_config") if fields.has(n))):
        if holder.has("quantization_config"):
            return _read(holder.section("quantization_config"))
    return None


def _read(section: Fields) -> Quantization:
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
            blocks = section.integers("weight_block_size")
            if len(blocks) != 2 or blocks[0] != blocks[1] or blocks[0] < 1:
                raise UnsupportedModelError(
                    f"fp8 without square blocks (weight_block_size {list(blocks)}) is not planned yet"
                )
            return Quantization(method, 8, blocks[0], unquantized)
        case QuantMethod.MXFP4 | QuantMethod.COMPRESSED_TENSORS | QuantMethod.SMOOTH_QUANT:
            raise not_planned(f"checkpoints in {method}")
        case None:
            raise UnsupportedModelError(
                f"quant_method {name!r} is not planned yet", "Supported: awq (gemm), gptq, fp8 in square blocks"
            )
        case _:
            assert_never(method)


def _four_bits(section: Fields) -> int:
    bits = section.integer("bits", maximum=16)
    if bits != 4:
        raise UnsupportedModelError(f"{bits}-bit weights are not served by LMDeploy; it takes 4 bits")
    return bits


def _group_size(section: Fields) -> int:
    return section.integer("group_size", maximum=2**14)
