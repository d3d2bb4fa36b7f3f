"""A config.json of another make: fewer layers, quantized weights. The keys stay in this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planner.errors import UsageError
from planner.model.quantization import Quantization, QuantMethod

_TEXT_SECTIONS = ("text_config", "llm_config")
KEYS_OF_STORAGE = frozenset(
    {
        "quantization_config",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "auto_map",
        "name_or_path",
        "model_name_or_path",
    }
)
"""What quantizing or saving changes in a config and no answer depends on. LMDeploy turns use_cache off to calibrate
(`lmdeploy/lite/apis/calibrate.py`)."""


def cut_layers(config: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """The config with so many decoder layers."""
    cut = dict(config)
    for name in _TEXT_SECTIONS:
        if name in cut:
            cut[name] = {**cut[name], "num_hidden_layers": num_layers}
    if "num_hidden_layers" in cut:
        cut["num_hidden_layers"] = num_layers
    return cut


def quantized_config(config: Mapping[str, Any], quantization: Quantization) -> dict[str, Any]:
    """The config with the section that `lmdeploy lite auto_awq` adds for `quantization`.

    Raises:
        UsageError: another method than awq.
    """
    if quantization.method is not QuantMethod.AWQ:
        raise UsageError(
            f"lmplan cannot write the config.json of {quantization.method} weights for a 16-bit model",
            "Name a model whose config.json says that it is quantized so",
        )
    section: dict[str, Any] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": quantization.bits,
        "group_size": quantization.group_size,
        "zero_point": True,
    }
    if quantization.unquantized:
        section["modules_to_not_convert"] = list(quantization.unquantized)
    return {**config, "quantization_config": section}


def quantization_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``quantization_config`` wherever LMDeploy looks for it; empty where there is none."""
    for holder in _holders(config):
        section = holder.get("quantization_config")
        if isinstance(section, Mapping) and section:
            return section
    return {}


def has_zero_points(config: Mapping[str, Any]) -> bool:
    """Whether the ``quantization_config`` says that groups have zero points."""
    return quantization_section(config).get("zero_point") is True


def _holders(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for name in _TEXT_SECTIONS:
        section = config.get(name)
        if isinstance(section, Mapping):
            yield section
