"""The settings of a deployment, called as LMDeploy calls them, with that version's defaults for that GPU."""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import UnsupportedModelError, UsageError, assert_never
from planner.hardware.gpu import Gpu
from planner.lmdeploy import versions
from planner.lmdeploy.engines import (
    ENGINES,
    EngineName,
    architectures,
    default_session_len_extra,
    engine_facts,
    forces_fp16,
)
from planner.lmdeploy.versions import LmdeployVersion
from planner.memory.parallelism import Parallelism
from planner.model.dtypes import DType
from planner.model.formats import choose
from planner.model.spec import GroupedQueryAttention, ModelSpec, Quantization, QuantMethod

QUANT_POLICIES = (0, 4, 8)
DEFAULT_MAX_PREFILL_TOKEN_NUM = 8192
"""`TurbomindEngineConfig.max_prefill_token_num` (`lmdeploy/messages.py`, 0.5.3 and 0.18.0)."""
MAX_TP = 1024
MAX_TOKENS = 2**28


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for; None is "the default"."""

    engine: str | None = None
    weights: str = "as-is"
    dtype: str = "auto"
    quant_policy: int = 0
    cache_max_entry_count: float | None = None
    tp: int = 1
    session_len: int | None = None
    max_batch_size: int | None = None
    max_prefill_token_num: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting decided. Tokens are tokens; `dtype` is that of the activations."""

    engine: EngineName
    lmdeploy: LmdeployVersion
    weights: str
    quantization: Quantization | None
    dtype: DType
    quant_policy: int
    cache_max_entry_count: float
    tp: int
    session_len: int
    max_batch_size: int
    max_prefill_token_num: int
    notes: tuple[str, ...] = ()

    @property
    def parallelism(self) -> Parallelism:
        """How the GPUs share the model."""
        return Parallelism(self.tp)


def decide(spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, wishes: Wishes) -> Settings:
    """Fill in the defaults and refuse what LMDeploy would refuse.

    Raises:
        UsageError: a value out of range, or one that this model cannot take (tp that does not divide).
        UnsupportedModelError: no engine of that version takes the model, the head size or the format.
    """
    notes = [lmdeploy.note] if lmdeploy.note else []
    engine = _engine(spec, lmdeploy, wishes.engine, notes)
    ratio = _ratio(wishes.cache_max_entry_count)
    _one_of("--quant-policy", wishes.quant_policy, QUANT_POLICIES)
    _within("--tp", wishes.tp, 1, MAX_TP)
    for option, value in (
        ("--session-len", wishes.session_len),
        ("--max-batch-size", wishes.max_batch_size),
        ("--max-prefill-token-num", wishes.max_prefill_token_num),
    ):
        if value is not None:
            _within(option, value, 1, MAX_TOKENS)
    quantization = choose(spec, wishes.weights)
    _check_tp(spec, wishes.tp)
    match engine:
        case "turbomind":
            _check_turbomind(spec, gpu, lmdeploy, quantization, wishes)
        case "pytorch":
            pass  # it takes any head size and GPU
        case _:
            assert_never(engine)
    extra = default_session_len_extra(engine, lmdeploy.rules)
    return Settings(
        engine=engine,
        lmdeploy=lmdeploy,
        weights=wishes.weights,
        quantization=quantization,
        dtype=_dtype(spec, gpu, engine, lmdeploy, quantization, wishes.dtype, notes),
        quant_policy=wishes.quant_policy,
        cache_max_entry_count=ratio,
        tp=wishes.tp,
        session_len=wishes.session_len or spec.text.max_position_embeddings + extra,
        max_batch_size=wishes.max_batch_size or versions.default_max_batch_size(lmdeploy.rules, gpu.product),
        max_prefill_token_num=wishes.max_prefill_token_num or DEFAULT_MAX_PREFILL_TOKEN_NUM,
        notes=tuple(notes),
    )


def _engine(spec: ModelSpec, lmdeploy: LmdeployVersion, wanted: str | None, notes: list[str]) -> EngineName:
    """The engine asked for, or the one that LMDeploy would take: TurboMind, else PyTorch (`lmdeploy/archs.py`)."""
    known = {engine: architectures(engine, lmdeploy.rules) for engine in ENGINES}
    needed = {spec.architecture, spec.text.architecture}

    def takes(engine: EngineName) -> bool:
        return needed <= set(known[engine])

    if wanted is not None:
        asked = next((engine for engine in ENGINES if engine == wanted), None)
        if asked is None:
            raise UsageError(f"--engine is {wanted!r}; expected one of {', '.join(ENGINES)}")
        if not known[asked]:
            raise UsageError(
                f"the {engine_facts(asked).title} of LMDeploy {lmdeploy.version} is not planned; "
                "its rules are known for 0.18.0"
            )
        if not takes(asked):
            other = next((engine for engine in ENGINES if engine != asked and takes(engine)), None)
            raise UnsupportedModelError(
                f"the {wanted} engine of LMDeploy {lmdeploy.version} does not take {_named(spec)}",
                f"Try --engine {other}" if other else _takers(known),
            )
        return asked
    first = ENGINES[0]
    taken = next((engine for engine in ENGINES if takes(engine)), None)
    if taken is not None:
        if taken != first:
            notes.append(
                f"{engine_facts(first).title} of LMDeploy {lmdeploy.version} does not take {_named(spec)}; "
                f"LMDeploy falls back to its {engine_facts(taken).title}"
            )
        return taken
    raise UnsupportedModelError(f"LMDeploy {lmdeploy.version} does not take {_named(spec)}", _takers(known))


def _named(spec: ModelSpec) -> str:
    if spec.architecture == spec.text.architecture:
        return spec.architecture
    return f"{spec.architecture} with {spec.text.architecture}"


def _takers(known: dict[EngineName, tuple[str, ...]]) -> str:
    return f"{engine_facts(ENGINES[0]).title} takes " + ", ".join(sorted(known[ENGINES[0]]))


def _ratio(value: float | None) -> float:
    if value is None:
        return 0.8  # default_cache_max_entry_count of every version in the table
    if not 0 < value < 1:
        raise UsageError(
            f"--cache-max-entry-count is {value:g}; expected a share between 0 and 1, such as 0.8",
            "It is the share of the memory that is free after loading, not of the whole card",
        )
    return value


def _one_of(option: str, value: int, choices: tuple[int, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} is {value}; expected one of {', '.join(map(str, choices))}")


def _within(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{option} is {value}; expected {low} to {high}")


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
                _check_heads(spec, attention.num_heads, attention.num_kv_heads, tp)
            case _:
                assert_never(attention)


def _check_heads(spec: ModelSpec, heads: int, kv_heads: int, tp: int) -> None:
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


def _check_turbomind(
    spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, quantization: Quantization | None, wishes: Wishes
) -> None:
    rules = versions.turbomind_rules(lmdeploy.rules)
    sm = gpu.compute_capability
    for group in spec.text.layer_groups:
        attention = group.attention
        match attention:
            case GroupedQueryAttention():
                head_dim, num_kv_heads = attention.head_dim, attention.num_kv_heads
            case _:
                assert_never(attention)
        if head_dim not in (*rules.head_dims, *(rules.head_dims_sm80 if sm >= 80 else ())):
            raise UnsupportedModelError(
                f"TurboMind of LMDeploy {lmdeploy.version} has no attention kernels for head_dim {head_dim} "
                f"on compute capability {sm / 10}",
                f"It has {', '.join(map(str, rules.head_dims))}; try --engine pytorch",
            )
        if wishes.quant_policy == 4 and head_dim in rules.kv_int4_not_for:
            raise UsageError(f"TurboMind has no int4 KV cache for head_dim {head_dim}", "Use --quant-policy 8")
        if rules.kv_replication == "none" and num_kv_heads % wishes.tp:
            raise UsageError(
                f"--tp {wishes.tp} does not divide the {num_kv_heads} key-value heads, "
                f"and LMDeploy {lmdeploy.version} does not repeat them"
            )
    if quantization is None:
        return
    if quantization.method.value not in rules.formats:
        raise UnsupportedModelError(f"TurboMind of LMDeploy {lmdeploy.version} does not serve {quantization.method}")
    match quantization.method:
        case QuantMethod.FP8:
            minimum, group_sizes = rules.min_sm_fp8, None
        case QuantMethod.AWQ | QuantMethod.GPTQ:
            minimum, group_sizes = rules.min_sm_w4a16, rules.int4_group_sizes
        case _:
            assert_never(quantization.method)
    if sm < minimum:
        raise UnsupportedModelError(
            f"{quantization.method} needs compute capability {minimum / 10} in LMDeploy {lmdeploy.version}; "
            f"{gpu.name} has {sm / 10}"
        )
    if group_sizes is not None and quantization.group_size not in group_sizes:
        raise UnsupportedModelError(
            f"{quantization.method} with groups of {quantization.group_size} is not served; "
            f"LMDeploy {lmdeploy.version} takes {', '.join(map(str, group_sizes))}"
        )


def _dtype(
    spec: ModelSpec,
    gpu: Gpu,
    engine: EngineName,
    lmdeploy: LmdeployVersion,
    quantization: Quantization | None,
    wanted: str,
    notes: list[str],
) -> DType:
    """The activations' type: fp16 where the GPU has no bf16 or the format forces it, else as asked or published."""
    names = {"float16": DType.F16, "bfloat16": DType.BF16}
    if wanted not in ("auto", *names):
        raise UsageError(f"--dtype is {wanted!r}; expected auto, float16 or bfloat16")
    published = DType.F16 if spec.dtype is DType.F16 else DType.BF16
    dtype = published if wanted == "auto" else names[wanted]
    if dtype is DType.BF16 and not gpu.has_bf16:
        notes.append(
            f"{gpu.name} (compute capability {gpu.compute_capability / 10}) has no bfloat16; fp16 will be used"
        )
        return DType.F16
    four_bits = quantization is not None and quantization.bits == 4
    forced = forces_fp16(engine, lmdeploy.rules)
    if four_bits and forced and dtype is DType.BF16:
        notes.append(f"4-bit weights run in fp16 in LMDeploy {lmdeploy.version}'s {engine} engine")
        return DType.F16
    return dtype
