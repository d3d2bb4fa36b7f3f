"""The estimate for a recipe's deployment, made for the checkpoint that a run left."""

from __future__ import annotations

from pathlib import Path

from planner.api.estimate import Plan, estimate
from planner.errors import LmplanError
from quantize.recipe.model import Target

QUANT_POLICY = {16: 0, 8: 8, 4: 4}
"""Bits of a KV cache element -> LMDeploy's quant_policy."""


def estimate_result(output: Path, deployment: Target) -> Plan | LmplanError:
    """What LMDeploy will hold on the recipe's GPU with this checkpoint, or why that cannot be said."""
    try:
        return estimate(
            str(output),
            deployment.gpu,
            sm=deployment.sm,
            lmdeploy=deployment.lmdeploy,
            context=deployment.context_tokens,
            engine=deployment.engine,
            quant_policy=QUANT_POLICY[deployment.kv_bits],
            cache_max_entry_count=deployment.ratio,
            tp=deployment.num_gpus,
        )
    except LmplanError as error:
        return error
