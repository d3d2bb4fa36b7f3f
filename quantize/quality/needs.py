"""What a check takes: time and memory, said before the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from planner.model.spec import ModelSpec
from planner.model.tensors import Role, TensorGroup, inventory, size_bytes
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
    """`start_s` is imports; then so much for each weight that is compared, each byte that is read, each operation."""

    start_s: float
    weight_s: float
    byte_s: float
    flops_per_s: float


# Two cores, SmolLM2-135M: PLACEHOLDER
_CPU: Final = _Speed(6.0, 4.7e-8, 1e-9, 1e11)
_GPU: Final = _Speed(10.0, 0.0, 2.5e-10, 1.5e14)


@dataclass(frozen=True, slots=True)
class QualityNeeds:
    """Of one check. `gpu_bytes` is 0 on a CPU; on a GPU hardly anything stays on the host."""

    seconds: float
    gpu_bytes: int
    host_bytes: int


def needs(spec: ModelSpec, expected: ExpectedCheckpoint, check: Check, device: str, drawn: bool) -> QualityNeeds | None:
    """What the check of a result takes; None where there is none.

    Weights are read once to compare them, and once more for text. One layer and the embeddings are there at a time.
    """
    if check.quality is QualityCheck.NONE:
        return None
    with_text = check.quality is QualityCheck.FULL and not drawn
    groups = inventory(spec)
    weights = sum(group.num_elements for group in expected.quantized)
    read_bytes = (size_bytes(groups) + expected.tensor_bytes) * (2 if with_text else 1)
    flops = 2 * 2 * sum(group.num_elements for group in groups) * TEXT_SAMPLES * TEXT_SEQLEN if with_text else 0
    speed = _GPU if device == "cuda" else _CPU
    seconds = speed.start_s + weights * speed.weight_s + read_bytes * speed.byte_s + flops / speed.flops_per_s
    held_bytes = _held_bytes(groups, 4 if device == "cpu" else 2) + _LOGITS_BYTES if with_text else 0
    memory_bytes = held_bytes + _CHUNK_BYTES
    if device == "cuda":
        return QualityNeeds(seconds, CUDA_CONTEXT_BYTES + memory_bytes, 0)
    return QualityNeeds(seconds, 0, memory_bytes)


def _held_bytes(groups: tuple[TensorGroup, ...], bytes_per_element: int) -> int:
    """Embedding, two heads, and the largest layer."""
    tables = sum(group.num_elements for group in groups if group.role in (Role.EMBEDDING, Role.LM_HEAD))
    layers: dict[int, int] = {}
    for group in groups:
        for layer in group.layers:
            layers[layer] = layers.get(layer, 0) + group.num_elements // group.count * max(group.num_experts, 1)
    return bytes_per_element * (2 * tables + max(layers.values(), default=0))
