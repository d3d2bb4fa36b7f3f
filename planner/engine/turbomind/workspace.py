"""TurboMind's workspace for multiplying matrices and what tuning them takes (0.15 and newer)."""

from __future__ import annotations

from planner.engine.turbomind.weights import TurbomindWeights
from planner.hardware.gpu import Gpu
from planner.lmdeploy.rules import TurbomindRules
from planner.memory.pool import aligned, reserved
from planner.memory.terms import Evidence, Term, exact
from planner.units import MIB, format_bytes

_RANDOM_STATE_BYTES = 2 * MIB
"""196,608 bytes by cudaMalloc, which hands out 2 MiB."""
_ASSUMED_L2_BYTES = 50 * MIB
_MAX_L2_BYTES = 130 * MIB
"""For a GPU whose L2 cache is not known: the catalog's cards have 2 to 128 MiB, an H100 50."""


def first_workspace(weights: TurbomindWeights, rules: TurbomindRules) -> Term:
    """The workspace where it is there when free memory is read."""
    size = _growth_bytes(weights.pool_used_bytes, rules)
    return exact(
        "workspaces",
        size,
        f"{format_bytes(rules.gemm_workspace_bytes)} behind the weights (pool grows by {format_bytes(size)})",
        "matrix-multiply workspace",
    )


def _growth_bytes(pool_used_bytes: int, rules: TurbomindRules) -> int:
    """What the workspace adds to the weights' pool."""
    return reserved(pool_used_bytes + aligned(rules.gemm_workspace_bytes)) - reserved(pool_used_bytes)


def gemm_workspace(
    weights: TurbomindWeights, rules: TurbomindRules, gpu: Gpu, evidence: Evidence, *, first: bool
) -> Term:
    """What comes after the KV cache: the workspace, unless it was there `first`, and the tuner's buffers."""
    if first:
        kept, text = (0, 0, 0), ""
    else:
        kept = _kept_bytes(weights, rules)
        workspace = format_bytes(aligned(rules.gemm_workspace_bytes))
        text = f"{workspace} behind the weights (pool grows by {format_bytes(kept[0])}) + "
    flush_bytes = _ASSUMED_L2_BYTES if gpu.l2_cache_bytes is None else gpu.l2_cache_bytes
    size, low, high = (grown + flush_bytes + _RANDOM_STATE_BYTES for grown in kept)
    if gpu.l2_cache_bytes is None:
        low, high = low - flush_bytes, high - flush_bytes + _MAX_L2_BYTES
        evidence = Evidence("assumed", "the L2 cache of this GPU is not known")
    return Term(
        "gemm_workspace",
        size,
        low,
        high,
        evidence,
        f"{text}{format_bytes(flush_bytes)} to flush the L2 cache while tuning + {format_bytes(_RANDOM_STATE_BYTES)}",
        "matrix-multiply workspace and tuner",
    )


def _kept_bytes(weights: TurbomindWeights, rules: TurbomindRules) -> tuple[int, int, int]:
    """What the workspace adds to the weights' pool once conversion's leftover is given back, and its band."""
    if weights.leftover is None:
        return (_growth_bytes(weights.pool_used_bytes, rules),) * 3
    return weights.leftover.kept_bytes, weights.leftover.kept_low_bytes, weights.leftover.kept_high_bytes
