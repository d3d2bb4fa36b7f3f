"""The sentences of a decision: what was asked, what to use, why, and what the others lack."""

from __future__ import annotations

from planner.advise.candidates import Candidate, Offer, Option
from planner.advise.decision import Chosen, Evaluation
from planner.advise.nearest import KV_SHARE_PERCENT
from planner.advise.throughput import Band, Speed
from planner.api.advice import Advice
from planner.request import Load
from planner.units import format_gib


def asked(advice: Advice) -> str:
    """What was asked for, in one line."""
    load = advice.decision.load
    parts = [f"{_users(load.num_users)} at {load.context_tokens:,} tokens"]
    if load.num_images:
        parts.append(f"{load.num_images} image{'s' if load.num_images > 1 else ''} a session")
    if load.latency_ms is not None:
        parts.append(f"a token within {load.latency_ms:g} ms")
    if load.first_token_ms is not None:
        parts.append(f"the first within {load.first_token_ms:g} ms")
    if load.keep_quality:
        parts.append("nothing quantized")
    return f"{advice.spec.name} for {', '.join(parts)}, LMDeploy {advice.lmdeploy.version}"


def headline(advice: Advice) -> str:
    """The decision in one sentence."""
    decision = advice.decision
    chosen = decision.chosen
    if chosen is None:
        nothing = f"Nothing that LMDeploy {advice.lmdeploy.version} offers serves this on {gpu_names(advice.offers)}"
        nearest = min(
            (w for w in decision.options if w.candidate is not None and not w.serves),
            key=lambda w: w.candidate.short_bytes if w.candidate else 0,
            default=None,
        )
        if nearest is None:
            return f"{nothing}."
        what = f"{option_text(nearest.option)} on {hardware(nearest.offer, nearest.option)}"
        return f"{nothing}. The least is missing with {what}: {nearest.lack}."
    what = f"{option_text(chosen.candidate.option)} on {hardware(chosen.candidate.offer, chosen.candidate.option)}"
    if decision.relaxation is None:
        return f"Yes: {what}."
    relaxation = decision.relaxation
    if relaxation.wish == "--keep-quality":
        return f"Does not fit as requested. Allow quantization: {what}."
    changed = f"{relaxation.wish}: {relaxation.possible} instead of {relaxation.asked}"
    return f"Does not fit as requested. {changed}, with {what}."


def why(advice: Advice) -> list[str]:
    """Why this plan, a sentence each."""
    chosen = advice.decision.chosen
    if chosen is None:
        return []
    load, candidate, memory = advice.load, chosen.candidate, chosen.memory
    fit = "fits" if candidate.users == 1 else "fit"
    sentences = [
        f"{_users(candidate.users)} of {load.context_tokens:,} tokens {fit} at once, of {load.num_users:,} requested: "
        f"the KV cache holds {candidate.kv.tokens:,} tokens",
        _ratio(candidate, memory.deployment.free_bytes - memory.total_bytes),
        _growth(chosen, load),
    ]
    fewer = next((e for e in advice.decision.options if e.serves and e.option.tp < candidate.option.tp), None)
    if fewer is not None:
        sentences.append(f"{hardware(fewer.offer, fewer.option)} would serve with {option_text(fewer.option)}")
    if chosen.speed is not None:
        sentences.append(speed_text(chosen.speed, load))
    else:
        sentences.append(f"the speed is not known: {candidate.offer.gpu.name} has no rates in lmplan")
    return sentences


def _ratio(candidate: Candidate, spare_bytes: int) -> str:
    """Why this ratio."""
    settings = candidate.settings
    if candidate.shared:
        return (
            f"cache_max_entry_count {settings.cache_max_entry_count:g} gives the KV cache {KV_SHARE_PERCENT}% of the "
            f"tokens that the leanest settings would; the rest is for a batch of {settings.max_batch_size}, prefill "
            f"steps of {settings.max_prefill_token_num:,} and sessions of {settings.session_len:,} tokens; "
            f"{format_gib(spare_bytes)} are free before the first request"
        )
    return (
        f"cache_max_entry_count {settings.cache_max_entry_count:g} is the largest that keeps "
        f"{format_gib(candidate.keep_free_bytes)} for what comes beside the KV cache: buffers of full batches"
        + (", the vision tower looking at an image" if candidate.image_bytes else "")
        + f"; {format_gib(spare_bytes)} are free before the first request"
    )


def speed_text(speed: Speed, load: Load) -> str:
    """Speed at the load in one sentence."""
    turn = (
        f"the matrix products become compute-bound at {speed.turn_batch:,} sequences"
        if speed.turn_batch
        else "the matrix products stay memory-bound at any batch"
    )
    return (
        f"{band_text(speed.user_tokens_per_s)} tokens/s for each of {_users(load.num_users)}, "
        f"{band_text(speed.decode_tokens_per_s)} in total, first token after {band_text(speed.first_token_seconds)} s "
        f"({speed.evidence}); decoding is bound by {speed.bound} at this load, {turn}"
    )


def rejected(evaluation: Evaluation, chosen: Chosen | None) -> str:
    """What an option lacked, or why it was not taken."""
    if evaluation.refused:
        return evaluation.refused
    if evaluation.lack:
        return evaluation.lack
    if chosen is None or evaluation.candidate is None:
        return "serves"
    if (evaluation.offer, evaluation.option) == (chosen.candidate.offer, chosen.candidate.option):
        return "chosen"
    mine, best = evaluation.option, chosen.candidate.option
    if mine.tp > best.tp:
        return "serves, with more GPUs"
    if mine.loss > best.loss:
        return "serves, loses more quality"
    return "serves, with less headroom"


def option_text(option: Option) -> str:
    """``W4A16 and 8-bit KV cache``."""
    return option.text


def short_option(option: Option) -> str:
    """For a table."""
    return f"{option.weights.short}, KV {option.quant_policy or 16}"


def hardware(offer: Offer, option: Option) -> str:
    """``one a10``, ``2 a10``."""
    return option.hardware(offer.gpu.name)


def gpu_names(offers: tuple[Offer, ...]) -> str:
    """The kinds of GPU offered."""
    return " or ".join(offer.gpu.name for offer in offers)


def band_text(band: Band) -> str:
    """A value with its ends: ``33 (26 to 40)``."""
    return f"{_number(band.value)} ({_number(band.low)} to {_number(band.high)})"


def _growth(chosen: Chosen, load: Load) -> str:
    users, context = chosen.users, chosen.context
    parts = [f"could grow to {_users(users.value)} at {load.context_tokens:,} tokens"]
    if users.candidate and users.value > chosen.candidate.users:
        parts[0] += f" (--max-batch-size {users.candidate.settings.max_batch_size})"
    parts.append(f"or {context.value:,} tokens for {_users(load.num_users)}")
    return f"{' '.join(parts)}; limited by {chosen.binding}"


def _users(number: int) -> str:
    return f"{number:,} user{'s' if number != 1 else ''}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
