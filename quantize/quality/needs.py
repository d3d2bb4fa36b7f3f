"""What a check takes: time and memory, said before the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from planner.model.inventory import inventory
from planner.model.spec import ModelSpec
from planner.model.tensors import Role, TensorGroup, size_bytes
from planner.units import MIB
from quantize.checkpoint.expected import ExpectedCheckpoint
from quantize.lite.resources import CUDA_CONTEXT_BYTES
from quantize.quality.child import TEXT_SAMPLES, TEXT_SEQLEN
from quantize.recipe.model import Check, QualityCheck

_CHUNK_BYTES: Final = 12 * 64 * MIB
"""A dozen float32 temporaries of 2^24 weights (`inside/weights.py`)."""
_LOGITS_BYTES: Final = 6 * 128 * MIB
"""Half a dozen of 2^25 logits (`inside/text.py`)."""


@dataclass(frozen=True, slots=True)
class _Speed:
    """`start_s` is imports; then so much for each weight and byte that is compared, for setting up two models for the
    text, and for each operation in them."""

    start_s: float
    weight_s: float
    byte_s: float
    text_s: float
    flops_per_s: float


# SmolLM2-135M on two cores: 6 s of imports, then 10.6 and 35.5 s of processor time for weights and for text.
_CPU: Final = _Speed(6.0, 5e-8, 0.0, 0.0, 6e10)
# Llama-3.1-8B on an H200, both checkpoints in the file cache: 11.7 s of imports, 16.4 s with weights, 22.0 s with text.
_GPU: Final = _Speed(12.0, 0.0, 2.2e-10, 5.0, 1.5e14)


@dataclass(frozen=True, slots=True)
class QualityNeeds:
    """Of one check. `gpu_bytes` is 0 on a CPU; on a GPU hardly anything stays on the host."""

    seconds: float
    gpu_bytes: int
    host_bytes: int


def needs(spec: ModelSpec, expected: ExpectedCheckpoint, check: Check, device: str, drawn: bool) -> QualityNeeds | None:
    """What the check of a result takes; None where there is none.

    A GPU that holds both checkpoints does so; the memory is that of one that does not, and has one layer at a time.
    Llama-3.1-8B took 22.0 s and 21.9 GiB on an H200 (22.4 s by this formula), and 26.6 s and 4.0 GiB layer by layer.
    """
    if check.quality is QualityCheck.NONE:
        return None
    with_text = check.quality is QualityCheck.FULL and not drawn
    groups = inventory(spec)
    weights = sum(group.num_elements for group in expected.quantized)
    speed = _GPU if device == "cuda" else _CPU
    seconds = speed.start_s + weights * speed.weight_s
    seconds += (size_bytes(groups) + expected.tensor_bytes) * speed.byte_s
    memory_bytes = _CHUNK_BYTES
    if with_text:
        flops = 2 * 2 * sum(group.num_elements for group in groups) * TEXT_SAMPLES * TEXT_SEQLEN
        seconds += speed.text_s + flops / speed.flops_per_s
        memory_bytes += _LOGITS_BYTES + _held_bytes(groups, 4 if device == "cpu" else 2)
    if device == "cuda":
        return QualityNeeds(seconds, CUDA_CONTEXT_BYTES + memory_bytes, 0)
    return QualityNeeds(seconds, 0, memory_bytes)


def _held_bytes(groups: tuple[TensorGroup, ...], bytes_per_element: int) -> int:
    """Two heads, or an embedding and a head, and the largest layer."""
    table = max(group.num_elements for group in groups if group.role is Role.EMBEDDING)
    layers: dict[int, int] = {}
    for group in groups:
        for layer in group.layers:
            layers[layer] = layers.get(layer, 0) + group.num_elements // group.num_tensors * max(group.num_experts, 1)
    return bytes_per_element * (2 * table + max(layers.values(), default=0))
