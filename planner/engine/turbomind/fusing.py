"""What a version of TurboMind does with an MLP: how it pads and cuts it, and whether it fuses the activation."""

from __future__ import annotations

from planner.kinds import assert_never
from planner.lmdeploy.rules import TurbomindRules
from planner.lmdeploy.settings import Settings
from planner.lmdeploy.words import FusedSilu, IntermediatePadding
from planner.memory.parallelism import Sharding
from planner.model.dtypes import DType


def sharding_of(settings: Settings, rules: TurbomindRules) -> Sharding:
    """How the ranks share the weights."""
    return Sharding(
        settings.parallelism,
        embedding_sharded=rules.embedding_sharded,
        lm_head_sharded=rules.lm_head_sharded,
        vocab_multiple=rules.vocab_multiple,
        intermediate_multiple=_intermediate_multiple(settings, rules),
        latent_folded=True,
    )


def _intermediate_multiple(settings: Settings, rules: TurbomindRules) -> int:
    """Padding of an MLP's intermediate size; 1 for none."""
    padding = rules.intermediate_padding
    match padding:
        case IntermediatePadding.NONE:
            return 1
        case IntermediatePadding.GROUP_TP_ONLY:
            if settings.tp == 1:
                return 1
        case IntermediatePadding.GROUP | IntermediatePadding.PLAN:
            pass
        case _:
            assert_never(padding)
    group = rules.dense_group
    if settings.quantization is not None:
        group = max(group, settings.quantization.group_size)
    return group


def fused_mlps(rule: FusedSilu, capability: int, settings: Settings, *, native_fp8: bool) -> tuple[bool, bool]:
    """Whether dense MLPs and experts apply their activation while they multiply."""
    if settings.quantization is None:
        # cuBLAS multiplies experts from 10.0 on (`builders/ffn.py`, _should_fuse_silu, 0.15.0 and 0.16.0).
        dense = rule is FusedSilu.BF16_SM90 and capability == 90 and settings.dtype is DType.BF16
        return dense, capability < 100
    match rule:
        case FusedSilu.INT4_OR_FP8_WEIGHTS:
            fused = not native_fp8
        case FusedSilu.BF16_SM90 | FusedSilu.QUANTIZED:
            fused = True
        case _:
            assert_never(rule)
    return fused, fused
