"""The planner as a library: one call from names to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from planner.advise.candidates import Pins
from planner.advise.suggestion import Recommendation, confirm
from planner.artefacts.launch import api_server_command, served_name
from planner.engine.base import Deployment
from planner.errors import UsageError
from planner.footprint import MemoryEstimate, estimate_memory
from planner.hardware import calibration
from planner.hardware.gpu import Gpu, find_gpu
from planner.kinds import WeightsChoice
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide, read_weights
from planner.model.find import find_model
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.model.tensors import size_bytes
from planner.request import DEFAULT_CONTEXT_TOKENS, Load, default_images, find_free_bytes
from planner.units import counted
from planner.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Plan:
    """An estimate, what to do about it and what was noticed on the way.

    Attributes:
        source: the model as found.
        memory: the estimate of the settings asked for.
        checkpoint_bytes: bytes of the checkpoint as it is served: of the files where there are any, else computed.
        context_tokens: length of a session that the recommendation is made for.
        context_given: whether it was asked for; only then it has to fit.
        notes: what the user should know.
    """

    source: ModelSource
    memory: MemoryEstimate
    checkpoint_bytes: int
    recommendation: Recommendation
    context_tokens: int
    context_given: bool
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the settings asked for serve sessions of the context, under full load as well."""
        return self.verdict is Verdict.SERVES

    @property
    def verdict(self) -> Verdict:
        """``serves``, or how it fails."""
        return self.memory.verdict(self.context_tokens if self.context_given else 1)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it fails, with numbers; empty where it serves."""
        match self.verdict:
            case Verdict.SERVES:
                return ()
            case Verdict.UNTIL_FULL_LOAD:
                return (self.memory.overload,)
            case Verdict.NO_SESSION:
                held, wanted = self.memory.kv_cache.tokens, self.context_tokens
                return (f"the KV cache holds {counted(held, 'token')} of the {wanted:,} of a session",)
            case _:
                return self.memory.reasons

    @property
    def total_bytes(self) -> int:
        """What the driver shows for the process once it serves."""
        return self.memory.total_bytes

    @property
    def command(self) -> str | None:
        """The command of the recommendation, or None where nothing serves."""
        best = self.recommendation.estimate
        if best is None:
            return None
        return api_server_command(best, served_name(self.source))


def estimate(
    model: str,
    gpu: str | Gpu,
    *,
    sm: int | None = None,
    free: str | int | None = None,
    lmdeploy: str | None = None,
    context: int | None = None,
    engine: str | None = None,
    weights: str | None = None,
    dtype: str = "auto",
    quant_policy: int | None = None,
    cache_max_entry_count: float | None = None,
    tp: int | None = None,
    session_len: int | None = None,
    max_batch_size: int | None = None,
    max_prefill_token_num: int | None = None,
) -> Plan:
    """Estimate what LMDeploy holds on a GPU and what to change.

    Args:
        model: catalog name, folder, config.json or Hugging Face id with ``@revision``.
        gpu: catalog name, a size such as ``24GiB`` (with `sm`), or a Gpu.
        sm: compute capability of a GPU given by size, such as 80.
        free: bytes free before the process starts, as a number or such as ``24GiB``; the whole card by default.
        lmdeploy: version, such as ``0.5.3``; the newest known by default.
        context: tokens of a session to plan for; 8192, or the model's maximum where that is less.
        weights: ``as-is`` (the default), ``w4a16`` or ``fp8``.
        engine, dtype, quant_policy, cache_max_entry_count, tp, session_len, max_batch_size,
            max_prefill_token_num: as LMDeploy calls them, with that version's defaults for that GPU. The
            recommendation keeps what is given and changes what is not, as long as that helps.

    Raises:
        UsageError, ConfigError: an argument or the config cannot be used as given.
        UnsupportedModelError: lmplan or the engine does not take the model.
        EnvironmentProblem: the network or a file system stands in the way.
    """
    chosen = gpu if isinstance(gpu, Gpu) else find_gpu(gpu, sm)
    source, spec = find_model(model)
    pins = Pins(
        tp=tp,
        weights=None if weights is None else read_weights(weights),
        quant_policy=quant_policy,
        cache_max_entry_count=cache_max_entry_count,
        session_len=session_len,
        max_batch_size=max_batch_size,
        max_prefill_token_num=max_prefill_token_num,
    )
    settings = decide(spec, chosen, versions.resolve(lmdeploy), _request(engine, dtype, pins))
    memory = estimate_memory(Deployment(spec, chosen, find_free_bytes(free, chosen), settings))
    context_tokens = _context(context, settings.session_len)
    load = _load(spec, context_tokens)
    recommendation = confirm(memory, engine, dtype, load)
    if recommendation is None:
        # With it comes the whole search, a third of all modules; what serves as asked starts without.
        from planner.advise.changes import change

        recommendation = change(memory, engine, dtype, pins, load)
    checkpoint_bytes, notes = _checkpoint(source, memory)
    return Plan(
        source=source,
        memory=memory,
        checkpoint_bytes=checkpoint_bytes,
        recommendation=_with_first_step(recommendation, served_name(source), load),
        context_tokens=context_tokens,
        context_given=context is not None,
        notes=(*source.notes, *settings.notes, *notes, *calibration.problems()),
    )


def _request(engine: str | None, dtype: str, pins: Pins) -> Request:
    """What was given, with LMDeploy's defaults where those do not depend on the model, the version or the GPU."""
    given = {name: value for name, value in pins._asdict().items() if value is not None}
    return Request(engine=engine, dtype=dtype, **given)


def _load(spec: ModelSpec, context_tokens: int) -> Load:
    """The load that a recommendation is made for: one user. Some versions' sessions are longer than the model's."""
    context_tokens = min(context_tokens, spec.text.max_position_embeddings)
    return Load(context_tokens, num_users=1, num_images=default_images(spec, context_tokens))


def _with_first_step(recommendation: Recommendation, model: str, load: Load) -> Recommendation:
    """What has to be made or found before the recommended command can run, named right behind the decision."""
    best = recommendation.estimate
    if best is None or best.deployment.settings.weights is WeightsChoice.AS_IS:
        return recommendation
    # Recipes, which nothing needs that is served as it is.
    from planner.artefacts.deployed import Deployed
    from planner.artefacts.quantize import first_step

    step = first_step(Deployed(best, model, load))
    decision, *others = recommendation.why
    return recommendation._replace(why=(decision, step, *others)) if step else recommendation


def _context(context: int | None, session_len: int) -> int:
    if context is None:
        return min(DEFAULT_CONTEXT_TOKENS, session_len)
    if not 0 < context <= session_len:
        raise UsageError(
            f"--context is {context}; expected 1 to the session length of {session_len}",
            "--session-len sets a longer one",
        )
    return context


def _checkpoint(source: ModelSource, memory: MemoryEstimate) -> tuple[int, tuple[str, ...]]:
    """Bytes of the checkpoint that is served. Headers of real files decide; what differs is said."""
    if source.checkpoint is None:
        return memory.checkpoint_bytes, ()
    from planner.model.file_form import as_stored
    from planner.model.reconcile import adopt, compare

    spec = as_stored(memory.deployment.spec, source.checkpoint)
    expected = store(inventory(spec), spec.quantization)
    notes = tuple(compare(expected, source.checkpoint))
    if memory.deployment.settings.quantization != spec.quantization:
        return memory.checkpoint_bytes, notes
    return size_bytes(adopt(expected, source.checkpoint)), notes
