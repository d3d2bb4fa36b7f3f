"""The settings of a deployment, called as LMDeploy calls them, with that version's defaults for that GPU."""

from __future__ import annotations

from typing import NamedTuple

from planner.errors import UnsupportedModelError, UsageError
from planner.hardware.gpu import Gpu
from planner.kinds import EngineName, WeightsChoice, assert_never
from planner.lmdeploy import refusals, versions
from planner.lmdeploy.versions import LmdeployVersion
from planner.lmdeploy.words import Int4Dtype
from planner.memory.parallelism import Parallelism
from planner.model.dtypes import DType
from planner.model.formats import choose
from planner.model.quantization import Quantization
from planner.model.spec import ModelSpec

DEFAULT_MAX_PREFILL_TOKEN_NUM = 8192
"""`TurbomindEngineConfig.max_prefill_token_num` (`lmdeploy/messages.py`, 0.5.3 and 0.18.0)."""
MAX_TP = 1024
MAX_TOKENS = 2**28
DTYPES = {"float16": DType.F16, "bfloat16": DType.BF16}
"""``--dtype`` besides auto (`lmdeploy/cli/utils.py`, ArgumentHelper.dtype)."""


class Request(NamedTuple):
    """What the user asked for, in the words that were typed; None is "the default"."""

    engine: str | None = None
    weights: str = WeightsChoice.AS_IS
    dtype: str = "auto"
    quant_policy: int = 0
    cache_max_entry_count: float | None = None
    tp: int = 1
    session_len: int | None = None
    max_batch_size: int | None = None
    max_prefill_token_num: int | None = None


class Settings(NamedTuple):
    """Every setting decided. Tokens are tokens; `dtype` is that of the activations.

    `cache_max_entry_count` below 1 is a share of the memory that is free, from 1 on a number of blocks.
    """

    engine: EngineName
    lmdeploy: LmdeployVersion
    weights: WeightsChoice
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

    @property
    def num_kv_blocks(self) -> int | None:
        """The blocks that `cache_max_entry_count` asks for, None where it is a share."""
        return None if self.cache_max_entry_count < 1 else int(self.cache_max_entry_count)


def decide(spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, request: Request) -> Settings:
    """Fill in the defaults and refuse what LMDeploy would refuse.

    Raises:
        UsageError: a value out of range, or one that this model cannot take (tp that does not divide).
        UnsupportedModelError: no engine of that version takes the model, the head size or the format.
    """
    notes = [lmdeploy.note] if lmdeploy.note else []
    engine = _engine(spec, lmdeploy, request.engine, notes)
    limits = refusals.limits_of(engine, lmdeploy.rules)
    ratio = refusals.ratio(limits, lmdeploy, request.cache_max_entry_count)
    if request.quant_policy not in limits.quant_policies:
        expected = ", ".join(map(str, limits.quant_policies))
        raise UsageError(f"--quant-policy is {request.quant_policy}; expected one of {expected}")
    _within("--tp", request.tp, 1, MAX_TP)
    for option, value in (
        ("--session-len", request.session_len),
        ("--max-batch-size", request.max_batch_size),
        ("--max-prefill-token-num", request.max_prefill_token_num),
    ):
        if value is not None:
            _within(option, value, 1, MAX_TOKENS)
    weights = read_weights(request.weights)
    quantization = choose(spec, weights)
    refusals.check(spec, gpu, lmdeploy, engine, quantization, request.tp, request.quant_policy)
    prefill = request.max_prefill_token_num or DEFAULT_MAX_PREFILL_TOKEN_NUM
    if prefill != DEFAULT_MAX_PREFILL_TOKEN_NUM:
        refusals.check_option("--max-prefill-token-num", lmdeploy)
    return Settings(
        engine=engine,
        lmdeploy=lmdeploy,
        weights=weights,
        quantization=quantization,
        dtype=_dtype(spec, gpu, engine, lmdeploy, quantization, request.dtype, notes),
        quant_policy=request.quant_policy,
        cache_max_entry_count=ratio,
        tp=request.tp,
        session_len=request.session_len or spec.text.max_position_embeddings + limits.session_len_extra,
        max_batch_size=request.max_batch_size or versions.default_max_batch_size(lmdeploy.rules, gpu.product),
        max_prefill_token_num=prefill,
        notes=tuple(notes),
    )


def defaults(settings: Settings, spec: ModelSpec, gpu: Gpu) -> Settings:
    """What LMDeploy would do for the same engine and weights if it were told nothing else."""
    return decide(spec, gpu, settings.lmdeploy, Request(engine=settings.engine, weights=settings.weights))


def _engine(spec: ModelSpec, lmdeploy: LmdeployVersion, wanted: str | None, notes: list[str]) -> EngineName:
    """The engine asked for, or the first that takes the model, as LMDeploy chooses (`lmdeploy/archs.py`)."""

    def takes(engine: EngineName) -> bool:
        needed = (spec.architecture, spec.text.architecture)
        return all(versions.takes(engine, architecture, lmdeploy.rules) for architecture in needed)

    takers = (engine for engine in EngineName if takes(engine))
    if wanted is not None:
        if wanted not in EngineName.words():
            raise UsageError(f"--engine is {wanted!r}; expected one of {', '.join(EngineName)}")
        engine = EngineName(wanted)
        if not versions.architectures(engine, lmdeploy.rules):
            raise UsageError(
                f"the {engine.heading} of LMDeploy {lmdeploy.version} is not planned; its rules are known for 0.18.0"
            )
        if not takes(engine):
            other = next(takers, None)
            raise UnsupportedModelError(
                f"the {engine} engine of LMDeploy {lmdeploy.version} does not take {_named(spec)}",
                f"Try --engine {other}" if other else _takers(spec, lmdeploy),
            )
        return engine
    taker = next(takers, None)
    if taker is None:
        raise UnsupportedModelError(
            f"LMDeploy {lmdeploy.version} does not take {_named(spec)}", _takers(spec, lmdeploy)
        )
    first, *_ = EngineName
    if taker is not first:
        notes.append(
            f"{first.heading} of LMDeploy {lmdeploy.version} does not take {_named(spec)}; "
            f"LMDeploy falls back to its {taker.heading}"
        )
    return taker


def _named(spec: ModelSpec) -> str:
    if spec.architecture == spec.text.architecture:
        return spec.architecture
    return f"{spec.architecture} with {spec.text.architecture}"


def _takers(spec: ModelSpec, lmdeploy: LmdeployVersion) -> str:
    """Which versions take the model, else what the first engine takes instead."""
    taken = {name for engine in EngineName for name in versions.architectures(engine, lmdeploy.rules)}
    missing = next((name for name in (spec.architecture, spec.text.architecture) if name not in taken), "")
    when = versions.when_served(missing)
    if when:
        return when
    first, *_ = EngineName
    return f"{first.heading} takes " + ", ".join(sorted(versions.architectures(first, lmdeploy.rules)))


def makes_fp8(engine: EngineName) -> bool:
    """Whether the engine quantizes 16-bit weights to fp8 while it loads (`lmdeploy/pytorch/nn/linear/blocked_fp8.py`,
    0.18.0); the other one needs a checkpoint.
    """
    match engine:
        case EngineName.PYTORCH:
            return True
        case EngineName.TURBOMIND:
            return False
        case _:
            assert_never(engine)


def read_weights(word: str) -> WeightsChoice:
    """The form of the weights that ``--weights`` asks for.

    Raises:
        UsageError: there is no such form.
    """
    if word not in WeightsChoice.words():
        *others, last = WeightsChoice
        raise UsageError(f"--weights is {word!r}; expected {', '.join(others)} or {last}")
    return WeightsChoice(word)


def _within(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{option} is {value}; expected {low} to {high}")


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
    if wanted not in ("auto", *DTYPES):
        raise UsageError(f"--dtype is {wanted!r}; expected auto, {' or '.join(DTYPES)}")
    published = DType.F16 if spec.dtype is DType.F16 or _falls_to_fp16(spec, engine) else DType.BF16
    four_bits = quantization is not None and quantization.bits == 4
    forced = four_bits and _int4_dtype(engine, lmdeploy) is Int4Dtype.FLOAT16

    def runs_in(dtype: DType) -> DType:
        return DType.F16 if forced or not gpu.has_bf16 else dtype

    dtype = published if wanted == "auto" else DTYPES[wanted]
    if runs_in(dtype) is not runs_in(published):
        refusals.check_option("--dtype", lmdeploy)
    if dtype is DType.BF16 and not gpu.has_bf16:
        notes.append(
            f"{gpu.name} (compute capability {gpu.compute_capability / 10}) has no bfloat16; fp16 will be used"
        )
    elif dtype is DType.BF16 and forced:
        notes.append(f"4-bit weights run in fp16 in LMDeploy {lmdeploy.version}'s {engine} engine")
    return runs_in(dtype)


def _falls_to_fp16(spec: ModelSpec, engine: EngineName) -> bool:
    """Where a config names no dtype of 16 bits, TurboMind takes bfloat16 and the PyTorch engine float16
    (`_resolve_dtype` of `lmdeploy/turbomind/converter.py`, `_update_torch_dtype` of `lmdeploy/pytorch/config.py`,
    0.18.0).
    """
    return engine is EngineName.PYTORCH and (spec.dtype is DType.F32 or not spec.dtype_given)


def _int4_dtype(engine: EngineName, lmdeploy: LmdeployVersion) -> Int4Dtype:
    match engine:
        case EngineName.TURBOMIND:
            return versions.turbomind_rules(lmdeploy.rules).int4_dtype
        case EngineName.PYTORCH:
            return versions.pytorch_rules(lmdeploy.rules).awq_dtype
        case _:
            assert_never(engine)
