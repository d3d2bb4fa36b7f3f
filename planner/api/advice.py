"""Recommendations as a library: one call from names and wishes to a decision with everything that starts it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from planner.advise.candidates import TP, Offer
from planner.advise.decision import Decider, Decision, Evaluation
from planner.advise.least_gpus import least_gpus
from planner.advise.relaxation import decide
from planner.artefacts.bundle import Artefact, artefacts
from planner.artefacts.deployed import Deployed
from planner.artefacts.launch import served_name
from planner.artefacts.quantize import needs_published
from planner.errors import UsageError
from planner.hardware import calibration
from planner.hardware.gpu import Gpu, find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.find import find_model
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.request import DEFAULT_CONTEXT_TOKENS, Load, default_images, find_free_bytes

MAX_USERS = 2**16
"""More sessions at once than any engine schedules on one host; larger numbers are slips."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A decision and what it is about.

    Attributes:
        limits: for `--max`: every option with the most users and the longest context.
    """

    source: ModelSource
    spec: ModelSpec
    lmdeploy: LmdeployVersion
    offers: tuple[Offer, ...]
    decision: Decision
    limits: tuple[Evaluation, ...] = ()

    @property
    def load(self) -> Load:
        """The load that the chosen plan serves: as asked, or with the wish that gave."""
        return self.decision.relaxation.load if self.decision.relaxation else self.decision.load

    @property
    def model_argument(self) -> str:
        """What a command can load."""
        return served_name(self.source)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed on the way."""
        chosen = self.decision.chosen
        if chosen is None:
            return (*self.source.notes, *calibration.problems())
        missing = needs_published(Deployed(chosen.memory, self.model_argument, self.load))
        return (
            *self.source.notes,
            *chosen.candidate.settings.notes,
            *((missing,) if missing else ()),
            *calibration.problems(),
        )

    def artefacts(self) -> tuple[Artefact, ...]:
        """Everything that starts the chosen plan; empty without one."""
        chosen = self.decision.chosen
        return artefacts(chosen.memory, self.model_argument, self.load) if chosen else ()


def advise(
    model: str,
    gpus: tuple[str | Gpu, ...],
    *,
    sm: int | None = None,
    free: str | int | None = None,
    num_gpus: int | None = None,
    lmdeploy: str | None = None,
    engine: str | None = None,
    dtype: str = "auto",
    context: int | None = None,
    concurrency: int | None = None,
    images: int | None = None,
    latency_ms: float | None = None,
    first_token_ms: float | None = None,
    keep_quality: bool = False,
    limits: bool = False,
) -> Advice:
    """Recommend settings for a load.

    Args:
        gpus: the kinds of GPU to choose from; see `planner.api.estimate` for `sm`, `free` and the
            model's names.
        num_gpus: how many of each kind there are; quality then comes before their number. By default the fewest that
            serve are taken.
        context: tokens of a session, images included; 8192 or the model's maximum where that is less.
        concurrency: sessions at once; 1 by default.
        images: images in a session; 1 by default for a model that sees.
        latency_ms, first_token_ms: longest time between two tokens of a user, and until the first.
        keep_quality: neither weights nor cache are quantized.
        limits: also work out how far every option can go.

    Raises:
        LmplanError: an argument cannot be used, or the model is not supported.
    """
    source, spec = find_model(model)
    version = versions.resolve(lmdeploy)
    offers = tuple(_offer(gpu, sm, free, num_gpus) for gpu in gpus)
    if not offers:
        raise UsageError("no --gpu is given", "`lmplan gpus` lists the names")
    load = _load(spec, context, concurrency, images, latency_ms, first_token_ms, keep_quality)
    for offer in offers:
        if (latency_ms or first_token_ms) and not offer.gpu.memory_bandwidth_bytes_per_s:
            raise UsageError(
                f"the speed of {offer.gpu.name} is not known, so no time can be promised",
                "Name a GPU that `lmplan gpus` lists, or leave --latency-ms and --first-token-ms out",
            )
    if num_gpus is None:
        offers = tuple(
            offer._replace(least_gpus=least_gpus(spec, offer.gpu, version, engine, dtype)) for offer in offers
        )
    decider = Decider(spec, offers, version, engine, dtype)
    decider.refuse_what_lmdeploy_refuses()
    decision = decide(decider, load)
    return Advice(source, spec, version, offers, decision, decider.limits(load) if limits else ())


def _offer(gpu: str | Gpu, sm: int | None, free: str | int | None, num_gpus: int | None) -> Offer:
    chosen = gpu if isinstance(gpu, Gpu) else find_gpu(gpu, sm)
    if num_gpus is not None and not 1 <= num_gpus <= TP[-1]:
        raise UsageError(f"--gpus is {num_gpus}; expected 1 to {TP[-1]}, the GPUs of one host")
    return Offer(chosen, find_free_bytes(free, chosen), num_gpus or TP[-1], num_gpus is not None)


def _load(
    spec: ModelSpec,
    context: int | None,
    concurrency: int | None,
    images: int | None,
    latency_ms: float | None,
    first_token_ms: float | None,
    keep_quality: bool,
) -> Load:
    longest = spec.text.max_position_embeddings
    for option, value, least, most in (
        ("--context", context, 1, 2**28),
        ("--concurrency", concurrency, 1, MAX_USERS),
        ("--images", images, 0, 10_000),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{option} is {value}; expected {least} to {most}")
    for option, number in (("--latency-ms", latency_ms), ("--first-token-ms", first_token_ms)):
        if number is not None and not 0 < number <= sys.float_info.max:
            raise UsageError(f"{option} is {number:g}; expected a time above 0")
    if images and spec.vision is None:
        raise UsageError(f"{spec.name} takes no images", "Leave --images out")
    context_tokens = min(DEFAULT_CONTEXT_TOKENS, longest) if context is None else context
    return Load(
        context_tokens=context_tokens,
        num_users=1 if concurrency is None else concurrency,
        num_images=default_images(spec, context_tokens) if images is None else images,
        latency_ms=latency_ms,
        first_token_ms=first_token_ms,
        keep_quality=keep_quality,
    )
