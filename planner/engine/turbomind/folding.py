"""Folding of latent attention (MLA) while TurboMind loads it, and what torch keeps of that.

The loader multiplies the projection of keys and values into the queries and the output (`builders/mla.py`, fold_kv_b,
0.18.0). torch's matrix products open a cuBLAS handle on the GPU and take a workspace out of torch's cache. It lies in a
segment which a vocabulary matrix was read into, and this is never given back. Traced on an H100 (GLM-4.7-Flash).
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.errors import UnsupportedModelError
from planner.hardware.overhead import torch_cublas_handle_bytes
from planner.memory.linears import LinearKind, LinearShape
from planner.memory.terms import Evidence, Term, exact
from planner.model.layers import LatentAttention
from planner.model.spec import TextModel
from planner.units import MIB, format_bytes, round_up

_HALF_BYTES = 2
_SEGMENT_ROUND_BYTES = 2 * MIB
_FOLDED = frozenset({LinearKind.QUERY_UP, LinearKind.OUTPUT})


def is_folded(text: TextModel) -> bool:
    """Whether the model has latent attention."""
    return any(isinstance(group.attention, LatentAttention) for group in text.layer_groups)


def check_folded(text: TextModel, linears: Iterable[LinearShape]) -> None:
    """Refuse latent attention whose linears are quantized.

    Raises:
        UnsupportedModelError: they are; `fold_kv_b` multiplies plain weights.
    """
    if is_folded(text) and any(linear.quantized for linear in linears if linear.kind in _FOLDED):
        raise UnsupportedModelError(
            "TurboMind folds the keys and values of latent attention into its queries and output; it cannot do so with "
            "quantized weights",
            "Take a checkpoint that holds out self_attn, or the 16-bit one",
        )


def kept_segment_bytes(text: TextModel) -> int:
    """The segment that torch keeps, 0 for a model that is not folded."""
    return round_up(text.vocab_size * text.hidden_size * _HALF_BYTES, _SEGMENT_ROUND_BYTES) if is_folded(text) else 0


def torch_kept(text: TextModel, evidence: Evidence) -> Term:
    """What torch holds for good."""
    handle, segment = torch_cublas_handle_bytes(), kept_segment_bytes(text)
    return exact(
        "torch_kept",
        handle + segment,
        f"cuBLAS handle {format_bytes(handle)} + a segment for {text.vocab_size} x {text.hidden_size} x 2 bytes",
        "what torch keeps of folding latent attention",
        evidence,
    )
