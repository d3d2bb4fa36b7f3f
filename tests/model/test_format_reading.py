"""``quantization_config`` -> Quantization, the bytes of the formats that it leads to, and what LMDeploy refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.errors import UnsupportedModelError
from planner.model import source
from planner.model.dtypes import DType
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec
from planner.model.tensors import Role, size_bytes
from tests.model.configs import config_of, spec_of, text_of


def test_the_parts_of_kimi_k2_5_in_int4() -> None:
    """Experts alone are packed: patterns hold the others out."""
    text = text_of("kimi-k2.5")
    groups = inventory(ModelSpec("kimi", "", DType.BF16, text))
    ignore = ("lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*")
    stored = store(groups, Quantization(QuantMethod.COMPRESSED_TENSORS, 4, 32, ignore))
    packed = {group.role for group in stored if group.name.endswith("weight_packed")}
    assert packed == {Role.EXPERT}
    shapes = {
        group.name.rpartition(".")[2]: (group.shape, group.dtype) for group in stored if ".experts." in group.name
    }
    assert shapes["weight_shape"] == ((2,), DType.I32)


def quantized(section: Mapping[str, Any], name: str = "llama-3.1-8b") -> Quantization:
    found = spec_of(name, quantization_config=section).quantization
    assert found is not None
    return found


_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}


def compressed(weights: Mapping[str, Any] = _INT4, **changes: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": dict(weights)}},
        "ignore": ["lm_head"],
        **changes,
    }


def test_formats() -> None:
    assert quantized(compressed()) == Quantization(QuantMethod.COMPRESSED_TENSORS, 4, 128, ("lm_head",))
    assert quantized({"quant_method": "smooth_quant"}) == Quantization(
        QuantMethod.SMOOTH_QUANT, 8, 0, weight_dtype=DType.I8
    )
    assert quantized({"quant_method": "smooth_quant", "quant_dtype": "float8_e4m3fn"}).weight_dtype is DType.F8_E4M3
    static = quantized({"quant_method": "fp8", "activation_scheme": "static"})
    assert static == Quantization(QuantMethod.FP8, 8, 0, static=True)
    assert spec_of("gpt-oss-20b").quantization == Quantization(
        QuantMethod.MXFP4,
        4,
        32,
        ("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"),
    )


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (compressed(format="float-quantized"), "float-quantized are not served"),
        (compressed({**_INT4, "num_bits": 8}), "8-bit int weights are not served"),
        (compressed({**_INT4, "symmetric": False}), "zero points"),
        (compressed(config_groups={}), "no group is not served"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt's NVFP4"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, "ModelOpt's FP8"),
        ({"quant_method": "fbgemm_fp8"}, "'fbgemm_fp8'"),
        ({"quant_method": "fp8", "fmt": "float8_e4m3fn"}, "takes e4m3 and e5m2"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "without square blocks"),
    ],
)
def test_formats_that_lmdeploy_refuses(section: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        quantized(section)


def test_bytes_of_8_bit_formats() -> None:
    """A linear takes a byte a weight, and for smooth_quant four for each output, for static fp8 eight in all."""
    plain = inventory(spec_of("llama-3.1-8b"))
    linears = [group for group in plain if ".layers." in group.name and len(group.shape) == 2]
    weights, outputs = sum(group.num_elements for group in linears), sum(g.shape[0] * g.num_tensors for g in linears)
    smooth = store(plain, Quantization(QuantMethod.SMOOTH_QUANT, 8, 0, weight_dtype=DType.I8))
    assert size_bytes(plain) - size_bytes(smooth) == weights - 4 * outputs
    static = store(plain, Quantization(QuantMethod.FP8, 8, 0, static=True))
    assert size_bytes(plain) - size_bytes(static) == weights - 8 * sum(group.num_tensors for group in linears)


def test_modelopt_beside_the_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of("llama-3.1-8b")))
    assert source.resolve(str(tmp_path)).config
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(UnsupportedModelError, match="ModelOpt's NVFP4"):
        source.resolve(str(tmp_path))
