"""What LMDeploy refuses: models, formats, GPUs and values that an engine of a version does not take."""

from __future__ import annotations

from typing import Final, NamedTuple

from packaging.version import Version

from planner.errors import UnsupportedModelError, UsageError, not_planned
from planner.hardware.gpu import Gpu
from planner.kinds import EngineName, assert_never
from planner.lmdeploy import versions
from planner.lmdeploy.versions import LmdeployVersion
from planner.lmdeploy.words import KvAllocator, KvReplication, RatioRange
from planner.model.layers import GatedDeltaNet, GroupedQueryAttention, LatentAttention, routed_experts
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec

_DELTA_HEAD_DIM: Final = 128
_FP8_BLOCKS: Final[tuple[int, ...]] = (128,)
_MX_GROUPS: Final[tuple[int, ...]] = (32,)
"""Blocks and groups that TurboMind takes (`lmdeploy/turbomind/converter.py`, _SUPPORTED_GROUP_SIZES, 0.18.0)."""
MAX_KV_BLOCKS: Final = 2**24
"""The largest number up to which the engine's float tells all whole numbers apart."""


class Limits(NamedTuple):
    """What an engine of a version takes of the settings that both have.

    `session_len_extra` tokens are added to the model's maximum where no session length is given.
    """

    ratio_range: RatioRange
    default_ratio: float
    quant_policies: tuple[int, ...]
    session_len_extra: int


def limits_of(engine: EngineName, version: Version) -> Limits:
    """The limits of one engine."""
    match engine:
        case EngineName.TURBOMIND:
            turbomind = versions.turbomind_rules(version)
            return Limits(
                turbomind.ratio_range,
                turbomind.default_cache_max_entry_count,
                turbomind.quant_policies,
                turbomind.default_session_len_extra,
            )
        case EngineName.PYTORCH:
            pytorch = versions.pytorch_rules(version)
            policies = tuple(sorted(policy.quant_policy for policy in pytorch.policies))
            return Limits(pytorch.ratio_range, pytorch.default_cache_max_entry_count, policies, 0)
        case _:
            assert_never(engine)


def ratio(limits: Limits, lmdeploy: LmdeployVersion, value: float | None) -> float:
    """The value of `cache_max_entry_count`, by default the engine's."""
    if value is None:
        return limits.default_ratio
    if 0 < value < 1:
        return value
    match limits.ratio_range:
        case RatioRange.SHARE:
            counts = f"; LMDeploy {lmdeploy.version} takes no number of blocks" if value > 1 else ""
            raise UsageError(
                f"--cache-max-entry-count is {value:g}; expected a share between 0 and 1, such as 0.8{counts}",
                "It is the share of the memory that is free after loading, not of the whole card",
            )
        case RatioRange.SHARE_OR_BLOCKS:
            if 1 <= value <= MAX_KV_BLOCKS and value == int(value):
                return float(value)
            raise UsageError(
                f"--cache-max-entry-count is {value:.10g}; expected a share between 0 and 1, such as 0.8, or a number "
                f"of blocks, 1 to {MAX_KV_BLOCKS}",
                "The share is of the memory that is free after loading, not of the whole card",
            )
        case _:
            assert_never(limits.ratio_range)


def check_option(option: str, lmdeploy: LmdeployVersion) -> None:
    """Refuse what a version cannot be told.

    Raises:
        UsageError: `lmdeploy serve api_server` of that version has no such option.
    """
    if not versions.has_option(option, lmdeploy.rules):
        raise UsageError(
            f"LMDeploy {lmdeploy.version} has no {option}", f"{option} is there from {versions.since(option)} on"
        )


def check(
    spec: ModelSpec,
    gpu: Gpu,
    lmdeploy: LmdeployVersion,
    engine: EngineName,
    quantization: Quantization | None,
    tp: int,
    quant_policy: int,
) -> None:
    """Refuse what the engine does not take of a model on a GPU.

    Raises:
        UsageError: tensor parallelism that does not divide the model, or a KV cache that has no kernels.
        UnsupportedModelError: a head size or a format that has none.
    """
    _check_tp(spec, tp)
    match engine:
        case EngineName.TURBOMIND:
            _check_format(gpu, lmdeploy, quantization)
            if versions.turbomind_rules(lmdeploy.rules).kv_allocator is KvAllocator.BLOCKS:
                _check_planned(spec, f"under TurboMind of LMDeploy {lmdeploy.version}")
            _check_heads(spec, gpu, lmdeploy, tp, quant_policy)
        case EngineName.PYTORCH:
            _check_pytorch(spec, lmdeploy, quantization)
            _check_planned(spec, "under the PyTorch engine")
        case _:
            assert_never(engine)


def _check_tp(spec: ModelSpec, tp: int) -> None:
    if tp == 1:
        return
    text = spec.text
    if text.hidden_size % tp:
        raise UsageError(f"--tp {tp} does not divide the hidden size {text.hidden_size} of {spec.name}")
    for group in text.layer_groups:
        attention = group.attention
        match attention:
            case GroupedQueryAttention():
                _check_divides(spec, attention.num_heads, attention.num_kv_heads, tp)
            case LatentAttention():
                _check_divides(spec, attention.num_heads, attention.num_heads, tp)
            case GatedDeltaNet():
                _check_divides(spec, attention.num_value_heads, attention.num_key_heads, tp)
            case _:
                assert_never(attention)


def _check_divides(spec: ModelSpec, heads: int, kv_heads: int, tp: int) -> None:
    if heads % tp:
        hidden = spec.text.hidden_size
        raise UsageError(
            f"--tp {tp} does not divide the {heads} attention heads of {spec.name}",
            "Possible: " + ", ".join(str(n) for n in range(1, 65) if heads % n == 0 and hidden % n == 0),
        )
    if kv_heads % tp and tp % kv_heads:
        raise UsageError(
            f"--tp {tp} neither divides nor is a multiple of the {kv_heads} key-value heads of {spec.name}"
        )


def _check_heads(spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, tp: int, quant_policy: int) -> None:
    rules = versions.turbomind_rules(lmdeploy.rules)
    sm = gpu.compute_capability
    if rules.tp_power_of_two and tp & (tp - 1):
        raise UsageError(f"--tp is {tp}; LMDeploy {lmdeploy.version} takes powers of two")
    for group in spec.text.layer_groups:
        attention = group.attention
        match attention:
            case GroupedQueryAttention():
                head_dim, num_kv_heads = attention.head_dim, attention.num_kv_heads
            case LatentAttention():
                head_dim, num_kv_heads = attention.latent_width, tp  # the latent is on every rank
            case GatedDeltaNet():
                _check_delta(attention, tp)
                continue
            case _:
                assert_never(attention)
        if head_dim not in (*rules.head_dims, *(rules.head_dims_sm80 if sm >= 80 else ())):
            raise UnsupportedModelError(
                f"TurboMind of LMDeploy {lmdeploy.version} has no attention kernels for head_dim {head_dim} "
                f"on compute capability {sm / 10}",
                f"It has {', '.join(map(str, rules.head_dims))}; try --engine pytorch",
            )
        if quant_policy == 4 and head_dim in rules.kv_int4_not_for:
            raise UsageError(f"TurboMind has no int4 KV cache for head_dim {head_dim}", "Use --quant-policy 8")
        match rules.kv_replication:
            case KvReplication.NONE:
                if num_kv_heads % tp:
                    raise UsageError(
                        f"--tp {tp} does not divide the {num_kv_heads} key-value heads, "
                        f"and LMDeploy {lmdeploy.version} does not repeat them"
                    )
            case KvReplication.TP_MULTIPLE | KvReplication.ROUND_UP:
                pass  # what neither takes is refused for every engine
            case _:
                assert_never(rules.kv_replication)


def _check_delta(net: GatedDeltaNet, tp: int) -> None:
    """As `src/turbomind/models/llama/GatedDeltaNetLayer.cc` asserts it, after v0.16.0."""
    if (net.key_head_dim, net.value_head_dim) != (_DELTA_HEAD_DIM, _DELTA_HEAD_DIM):
        raise UnsupportedModelError(
            f"linear attention with heads of {net.key_head_dim} and {net.value_head_dim}; TurboMind takes "
            f"{_DELTA_HEAD_DIM} for keys and values"
        )
    for heads, what in ((net.num_key_heads, "key"), (net.num_value_heads, "value")):
        if heads % tp:
            raise UsageError(f"--tp {tp} does not divide the {heads} {what} heads of linear attention")
    if net.num_value_heads % net.num_key_heads:
        raise UnsupportedModelError(
            f"linear attention with {net.num_value_heads} value heads, no multiple of its {net.num_key_heads} key heads"
        )


def _check_format(gpu: Gpu, lmdeploy: LmdeployVersion, quantization: Quantization | None) -> None:
    if quantization is None:
        return
    rules = versions.turbomind_rules(lmdeploy.rules)
    sm, method = gpu.compute_capability, quantization.method
    if method.value not in rules.formats:
        raise UnsupportedModelError(f"TurboMind of LMDeploy {lmdeploy.version} does not serve {method}")
    match method:
        case QuantMethod.FP8:
            minimum, group_sizes = rules.min_sm_fp8, _FP8_BLOCKS
        case QuantMethod.AWQ | QuantMethod.GPTQ:
            minimum, group_sizes = rules.min_sm_w4a16, rules.int4_group_sizes
        case QuantMethod.COMPRESSED_TENSORS:
            minimum, group_sizes = rules.min_sm_w4a16, rules.compressed_group_sizes
        case QuantMethod.MXFP4:
            minimum, group_sizes = rules.min_sm_mxfp4, _MX_GROUPS
        case QuantMethod.SMOOTH_QUANT:
            raise not_planned(f"{method} under TurboMind")
        case _:
            assert_never(method)
    if sm < minimum:
        raise UnsupportedModelError(
            f"{method} needs compute capability {minimum / 10} in LMDeploy {lmdeploy.version}; {gpu.name} has {sm / 10}"
        )
    if quantization.group_size not in group_sizes:
        scales = f"groups of {quantization.group_size}" if quantization.group_size else "one scale a linear"
        raise UnsupportedModelError(
            f"{method} with {scales} is not served; "
            f"TurboMind of LMDeploy {lmdeploy.version} takes {', '.join(map(str, group_sizes))}"
        )


def _check_pytorch(spec: ModelSpec, lmdeploy: LmdeployVersion, quantization: Quantization | None) -> None:
    if quantization is None:
        return
    rules, method = versions.pytorch_rules(lmdeploy.rules), quantization.method
    experts = any(routed_experts(group.mlp) is not None for group in spec.text.layer_groups)
    if method.value not in rules.formats:
        raise UnsupportedModelError(
            f"the PyTorch engine does not serve {method.value.upper()}", "Use --engine turbomind"
        )
    if method is QuantMethod.AWQ and experts and not rules.awq_moe:
        raise UnsupportedModelError(
            "the PyTorch engine does not serve AWQ experts", "Use --engine turbomind or --weights as-is"
        )


def _check_planned(spec: ModelSpec, where: str) -> None:
    """Refuse mechanisms that are planned for slabs of TurboMind alone; `where` they are not."""
    for group in spec.text.layer_groups:
        attention, experts = group.attention, routed_experts(group.mlp)
        match attention:
            case GroupedQueryAttention():
                if attention.sinks:
                    raise not_planned(f"attention sinks {where}")
                if attention.output_gate:
                    raise not_planned(f"a gate on the output of attention {where}")
            case LatentAttention():
                raise not_planned(f"latent attention {where}")
            case GatedDeltaNet():
                raise not_planned(f"gated linear attention {where}")
            case _:
                assert_never(attention)
        if experts is not None and experts.correction_bias:
            raise not_planned(f"a correction bias of the router {where}")
        if experts is not None and experts.expert_bias:
            raise not_planned(f"biases of experts {where}")
