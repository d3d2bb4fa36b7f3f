"""The settings of a deployment, called as LMDeploy calls them, with that version's defaults for that GPU."""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import UnsupportedModelError, UsageError
from planner.hardware.gpu import Gpu
from planner.lmdeploy import versions
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.dtypes import DType
from planner.model.formats import choose
from planner.model.spec import ModelSpec, Quantization

ENGINES = ("turbomind", "pytorch")
QUANT_POLICIES = (0, 4, 8)
DEFAULT_MAX_PREFILL_TOKEN_NUM = 8192
"""`TurbomindEngineConfig.max_prefill_token_num` (`lmdeploy/messages.py`, 0.5.3 and 0.18.0)."""
MAX_TP = 1024
MAX_TOKENS = 2**28


@dataclass(frozen=True, slots=True)
class Request:
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

    engine: str
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


def decide(spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, request: Request) -> Settings:
    """Fill in the defaults and refuse what LMDeploy would refuse.

    Raises:
        UsageError: a value out of range, or one that this model cannot take (tp that does not divide).
        UnsupportedModelError: no engine of that version takes the model, the head size or the format.
    """
    notes = [lmdeploy.note] if lmdeploy.note else []
    engine = _engine(spec, lmdeploy, request.engine, notes)
    ratio = _ratio(request.cache_max_entry_count)
    _one_of("--quant-policy", request.quant_policy, QUANT_POLICIES)
    _within("--tp", request.tp, 1, MAX_TP)
    for option, value in (
        ("--session-len", request.session_len),
        ("--max-batch-size", request.max_batch_size),
        ("--max-prefill-token-num", request.max_prefill_token_num),
    ):
        if value is not None:
            _within(option, value, 1, MAX_TOKENS)
    quantization = choose(spec, request.weights)
    _check_tp(spec, request.tp)
    if engine == "turbomind":
        _check_turbomind(spec, gpu, lmdeploy, quantization, request)
    extra = versions.turbomind_rules(lmdeploy.rules).default_session_len_extra if engine == "turbomind" else 0
    return Settings(
        engine=engine,
        lmdeploy=lmdeploy,
        weights=request.weights,
        quantization=quantization,
        dtype=_dtype(spec, gpu, engine, lmdeploy, quantization, request.dtype, notes),
        quant_policy=request.quant_policy,
        cache_max_entry_count=ratio,
        tp=request.tp,
        session_len=request.session_len or spec.text.max_position_embeddings + extra,
        max_batch_size=request.max_batch_size or versions.default_max_batch_size(lmdeploy.rules, gpu.product),
        max_prefill_token_num=request.max_prefill_token_num or DEFAULT_MAX_PREFILL_TOKEN_NUM,
        notes=tuple(notes),
    )


def _engine(spec: ModelSpec, lmdeploy: LmdeployVersion, wanted: str | None, notes: list[str]) -> str:
    """The engine asked for, or the one that LMDeploy would take: TurboMind, else PyTorch (`lmdeploy/archs.py`)."""
    known = {
        "turbomind": versions.turbomind_architectures(lmdeploy.rules),
        "pytorch": versions.pytorch_architectures(lmdeploy.rules),
    }
    needed = {spec.architecture, spec.text.architecture}

    def takes(engine: str) -> bool:
        return needed <= set(known[engine])

    if wanted is not None:
        if wanted not in ENGINES:
            raise UsageError(f"--engine is {wanted!r}; expected one of {', '.join(ENGINES)}")
        if wanted == "pytorch" and not known["pytorch"]:
            raise UsageError(
                f"the PyTorch engine of LMDeploy {lmdeploy.version} is not planned; its rules are known for 0.18.0"
            )
        if not takes(wanted):
            other = next((engine for engine in ENGINES if engine != wanted and takes(engine)), None)
            raise UnsupportedModelError(
                f"the {wanted} engine of LMDeploy {lmdeploy.version} does not take {_named(spec)}",
                f"Try --engine {other}" if other else _takers(known),
            )
        return wanted
    if takes("turbomind"):
        return "turbomind"
    if takes("pytorch"):
        notes.append(
            f"TurboMind of LMDeploy {lmdeploy.version} does not take {_named(spec)}; "
            "LMDeploy falls back to its PyTorch engine"
        )
        return "pytorch"
    raise UnsupportedModelError(f"LMDeploy {lmdeploy.version} does not take {_named(spec)}", _takers(known))


def _named(spec: ModelSpec) -> str:
    if spec.architecture == spec.text.architecture:
        return spec.architecture
    return f"{spec.architecture} with {spec.text.architecture}"


def _takers(known: dict[str, tuple[str, ...]]) -> str:
    return "TurboMind takes " + ", ".join(sorted(known["turbomind"]))


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
        heads, kv_heads = attention.num_heads, attention.num_kv_heads
        if heads % tp:
            raise UsageError(
                f"--tp {tp} does not divide the {heads} attention heads of {spec.name}",
                "Possible: " + ", ".join(str(n) for n in range(1, 65) if heads % n == 0 and text.hidden_size % n == 0),
            )
        if kv_heads % tp and tp % kv_heads:
            raise UsageError(
                f"--tp {tp} neither divides nor is a multiple of the {kv_heads} key-value heads of {spec.name}"
            )


def _check_turbomind(
    spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, quantization: Quantization | None, request: Request
) -> None:
    rules = versions.turbomind_rules(lmdeploy.rules)
    sm = gpu.compute_capability
    for group in spec.text.layer_groups:
        head_dim = group.attention.head_dim
        if head_dim not in (*rules.head_dims, *(rules.head_dims_sm80 if sm >= 80 else ())):
            raise UnsupportedModelError(
                f"TurboMind of LMDeploy {lmdeploy.version} has no attention kernels for head_dim {head_dim} "
                f"on compute capability {sm / 10}",
                f"It has {', '.join(map(str, rules.head_dims))}; try --engine pytorch",
            )
        if request.quant_policy == 4 and head_dim in rules.kv_int4_not_for:
            raise UsageError(f"TurboMind has no int4 KV cache for head_dim {head_dim}", "Use --quant-policy 8")
        if rules.kv_replication == "none" and group.attention.num_kv_heads % request.tp:
            raise UsageError(
                f"--tp {request.tp} does not divide the {group.attention.num_kv_heads} key-value heads, "
                f"and LMDeploy {lmdeploy.version} does not repeat them"
            )
    if quantization is None:
        return
    if quantization.method not in rules.formats:
        raise UnsupportedModelError(f"TurboMind of LMDeploy {lmdeploy.version} does not serve {quantization.method}")
    minimum = rules.min_sm_fp8 if quantization.method == "fp8" else rules.min_sm_w4a16
    if sm < minimum:
        raise UnsupportedModelError(
            f"{quantization.method} needs compute capability {minimum / 10} in LMDeploy {lmdeploy.version}; "
            f"{gpu.name} has {sm / 10}"
        )
    if quantization.method != "fp8" and quantization.group_size not in rules.int4_group_sizes:
        raise UnsupportedModelError(
            f"{quantization.method} with groups of {quantization.group_size} is not served; "
            f"LMDeploy {lmdeploy.version} takes {', '.join(map(str, rules.int4_group_sizes))}"
        )


def _dtype(
    spec: ModelSpec,
    gpu: Gpu,
    engine: str,
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
    four_bits = quantization is not None and quantization.method in ("awq", "gptq")
    forced = engine == "pytorch" or versions.turbomind_rules(lmdeploy.rules).int4_dtype == "float16"
    if four_bits and forced and dtype is DType.BF16:
        notes.append(f"4-bit weights run in fp16 in LMDeploy {lmdeploy.version}'s {engine} engine")
        return DType.F16
    return dtype
