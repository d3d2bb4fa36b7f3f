"""The sentences of a decision: what was asked, what to use, why, and what the others lack."""

from __future__ import annotations

from planner.advise.candidates import Offer, Option
from planner.advise.decision import Chosen, Weighed
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
            (w for w in decision.options if w.trial is not None and not w.serves),
            key=lambda w: w.trial.short_bytes if w.trial else 0,
            default=None,
        )
        if nearest is None:
            return f"{nothing}."
        what = f"{option_text(nearest.option)} on {hardware(nearest.offer, nearest.option)}"
        return f"{nothing}. The least is missing with {what}: {nearest.lack}."
    what = f"{option_text(chosen.trial.option)} on {hardware(chosen.trial.offer, chosen.trial.option)}"
    if decision.give is None:
        return f"Yes: {what}."
    give = decision.give
    return f"Not as asked. {give.wish} has to give: {give.asked} asked, {give.possible} possible, with {what}."


def why(advice: Advice) -> list[str]:
    """Why this plan, a sentence each."""
    chosen = advice.decision.chosen
    if chosen is None:
        return []
    load, trial, memory = advice.load, chosen.trial, chosen.memory
    settings = trial.settings
    fit, are = "fits" if trial.users == 1 else "fit", "is" if load.num_users == 1 else "are"
    sentences = [
        f"{_users(trial.users)} of {load.context_tokens:,} tokens {fit} at once where {load.num_users:,} {are} wanted: "
        f"the KV cache holds {trial.kv.tokens:,} tokens",
        f"cache_max_entry_count {settings.cache_max_entry_count:g} is the largest that keeps "
        f"{format_gib(trial.keep_free_bytes)} for what comes beside the KV cache: buffers of full batches"
        + (", the vision tower looking at an image" if trial.image_bytes else "")
        + f"; {format_gib(memory.deployment.free_bytes - memory.total_bytes)} are free before the first request",
        _growth(chosen, load),
    ]
    if chosen.speed is not None:
        sentences.append(speed_text(chosen.speed, load))
    else:
        sentences.append(f"the speed is not known: {trial.offer.gpu.name} has no rates in lmplan")
    return sentences


def speed_text(speed: Speed, load: Load) -> str:
    """Speed at the load in one sentence."""
    turn = (
        f"the matrix products turn to compute from {speed.turn_batch:,} sequences on"
        if speed.turn_batch
        else "the matrix products stay bound by memory at any batch"
    )
    return (
        f"{band_text(speed.user_tokens_per_s)} tokens/s for each of {_users(load.num_users)}, "
        f"{band_text(speed.decode_tokens_per_s)} in total, first token after {band_text(speed.first_token_seconds)} s "
        f"({speed.evidence}); decoding is bound by {speed.bound} at this load, {turn}"
    )


def rejected(weighed: Weighed, chosen: Chosen | None) -> str:
    """What an option lacked, or why it was not taken."""
    if weighed.refused:
        return weighed.refused
    if weighed.lack:
        return weighed.lack
    if chosen is None or weighed.trial is None:
        return "serves"
    if (weighed.offer, weighed.option) == (chosen.trial.offer, chosen.trial.option):
        return "chosen"
    mine, best = weighed.option, chosen.trial.option
    if mine.tp > best.tp:
        return "serves, with more GPUs"
    if mine.loss > best.loss:
        return "serves, loses more quality"
    return "serves, with less headroom"


def option_text(option: Option) -> str:
    """``W4A16 and 8-bit KV cache``."""
    return f"{option.weights.in_words} and {option.quant_policy or 16}-bit KV cache"


def short_option(option: Option) -> str:
    """For a table."""
    return f"{option.weights.short}, KV {option.quant_policy or 16}"


def hardware(offer: Offer, option: Option) -> str:
    """``one a10``, ``2 a10``."""
    return f"{'one' if option.tp == 1 else option.tp} {offer.gpu.name}"


def gpu_names(offers: tuple[Offer, ...]) -> str:
    """The kinds of GPU offered."""
    return " or ".join(offer.gpu.name for offer in offers)


def band_text(band: Band) -> str:
    """A value with its ends: ``33 (26 to 40)``."""
    return f"{_number(band.value)} ({_number(band.low)} to {_number(band.high)})"


def worth_showing(advice: Advice) -> list[Weighed]:
    """Options for the table: those with no more GPUs than the chosen plan, else those with the most."""
    chosen = advice.decision.chosen
    if chosen is None:
        most = max(w.option.tp for w in advice.decision.options)
        rows = [w for w in advice.decision.options if w.option.tp == most]
    else:
        rows = [w for w in advice.decision.options if w.option.tp <= chosen.trial.option.tp]
    if advice.decision.load.keep_quality:
        rows = [w for w in rows if not w.option.loss]
    return rows


def _growth(chosen: Chosen, load: Load) -> str:
    users, context = chosen.users, chosen.context
    parts = [f"could grow to {_users(users.value)} at {load.context_tokens:,} tokens"]
    if users.trial and users.value > chosen.trial.users:
        parts[0] += f" (--max-batch-size {users.trial.settings.max_batch_size})"
    parts.append(f"or {context.value:,} tokens for {_users(load.num_users)}")
    return f"{' '.join(parts)}; what ends it is {chosen.binding}"


def _users(number: int) -> str:
    return f"{number:,} user{'s' if number != 1 else ''}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
