"""What a check found: the child's answer, typed; what of it is beyond the limits, and what to do about that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from quantize.recipe.model import Check

NAME: Final = "lmplan-quality.json"
SCHEMA: Final = "lmplan.quality/1"
_LOST_RATIO: Final = 0.5
"""A linear that is off by half its weights is not rounded coarsely: rounding to 4 bits costs a tenth."""
_SCALE_TOLERANCE: Final = 0.1
"""Good runs have scales from 0.99 to 1.01; those of a search that went wrong on a CPU are 0.34 to 0.49."""


@dataclass(frozen=True, slots=True)
class LinearError:
    """A linear against its original; None stands for what is no number.

    Attributes:
        error: RMS of the difference over RMS of the original's weights, smoothing undone.
        group_error: the same of its worst group: output `worst_output`, inputs of group `worst_group`.
        steps: the largest difference of a weight in steps of its 4-bit grid, where it was not cut off; None also
            where it has no grid.
        scale: by how much it is larger than it should be beside what feeds it.
        bias_error: of its bias, None also without one.
    """

    name: str
    layer: int
    error: float | None
    group_error: float | None
    worst_output: int
    worst_group: int
    steps: float | None
    scale: float | None
    bias_error: float | None


@dataclass(frozen=True, slots=True)
class TextResult:
    """Held-out text through both; None stands for what is no number."""

    num_tokens: int
    perplexity_original: float | None
    perplexity_result: float | None
    mean_kl_nats: float | None
    p99_kl_nats: float | None
    top1_agreement_ratio: float | None

    @property
    def perplexity_increase(self) -> float | None:
        """Share by which perplexity rose."""
        if self.perplexity_original is None or self.perplexity_result is None:
            return None
        return self.perplexity_result / self.perplexity_original - 1


@dataclass(frozen=True, slots=True)
class Quality:
    """All that was compared. `others` are tensors beside the linears, `text_skipped` says why there is no `text`."""

    linears: tuple[LinearError, ...]
    num_others: int
    others: Mapping[str, str]
    config: tuple[str, ...]
    tokenizer: tuple[str, ...]
    text: TextResult | None
    text_skipped: str
    device: str
    seconds: float
    gpu_peak_bytes: int | None = None

    def worst(self, key: str) -> float:
        """The largest `error`, `group_error` or `steps` of any linear; infinite where one is no number."""
        values = [getattr(linear, key) for linear in self.linears if key != "steps" or linear.steps is not None]
        return max((math.inf if value is None else float(value) for value in values), default=0.0)

    def summary(self) -> dict[str, float | None]:
        """For the manifest."""
        text = self.text
        return {
            "linear_error": _number(self.worst("error")),
            "group_error": _number(self.worst("group_error")),
            "perplexity_original": None if text is None else text.perplexity_original,
            "perplexity_result": None if text is None else text.perplexity_result,
            "mean_kl_nats": None if text is None else text.mean_kl_nats,
            "top1_agreement_ratio": None if text is None else text.top1_agreement_ratio,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """What is beyond a limit, and what to do about it."""

    what: str
    remedy: str


def read(answer: Mapping[str, Any], device: str, seconds: float) -> Quality:
    """The child's report (`quantize/quality/inside/main.py`), and how long it took from its start."""
    return Quality(
        linears=_worst_experts(LinearError(**linear) for linear in answer["linears"]),
        num_others=answer["num_others"],
        others={other["name"]: other["problem"] for other in answer["others"]},
        config=tuple(answer["config"]),
        tokenizer=tuple(answer["tokenizer"]),
        text=TextResult(**answer["text"]) if answer["text"] else None,
        text_skipped=answer["text_skipped"],
        device=device,
        seconds=seconds,
        gpu_peak_bytes=answer.get("gpu_peak_bytes"),
    )


def problems(quality: Quality, check: Check) -> list[Problem]:
    """What is beyond the limits: broken tensors first, then linears layer by layer, then all that is not a weight."""
    return [
        *(
            Problem(f"{name}: {what}", "Quantize again; the tensor was damaged")
            for name, what in quality.others.items()
        ),
        *(problem for linear in quality.linears for problem in _of_linear(linear, check)),
        *(
            Problem(f"config.json is not the original's: {line}", "Restore the value; the weights were made for it")
            for line in quality.config
        ),
        *(
            Problem(f"the tokenizer is not the original's: {line}", "Copy the original's tokenizer files")
            for line in quality.tokenizer
        ),
        *(_of_text(quality.text, check) if quality.text else ()),
    ]


def to_object(quality: Quality, check: Check, found: list[Problem]) -> dict[str, Any]:
    """The report by layer (`quantize/data/quality.schema.json`)."""
    layers: dict[int, list[dict[str, Any]]] = {}
    for linear in quality.linears:
        values = {key: _rounded(value) for key, value in asdict(linear).items()}
        layers.setdefault(values.pop("layer"), []).append(values)
    limits = check.model_dump(mode="json", exclude={"bytes_tolerance", "quality", "text", "text_field"})
    return {
        "schema": SCHEMA,
        "passed": not found,
        "problems": [asdict(problem) for problem in found],
        "limits": limits,
        "device": quality.device,
        "seconds": round(quality.seconds, 2),
        "gpu_peak_bytes": quality.gpu_peak_bytes,
        "text": quality.text and {key: _rounded(value) for key, value in asdict(quality.text).items()},
        "text_skipped": quality.text_skipped,
        "num_other_tensors": quality.num_others,
        "layers": [{"layer": layer, "linears": linears} for layer, linears in layers.items()],
    }


def _of_linear(linear: LinearError, check: Check) -> Iterator[Problem]:
    again = "Quantize again; the tensors were damaged"
    if _over(linear.error, check.linear_error) and _is_scaled(linear, check.linear_error):
        yield Problem(
            f"{linear.name} is {linear.scale:.2f} times what goes with the layer's other weights",
            "Set search_scale: false: on a CPU LMDeploy's search scales twice. If it was not set, quantize again",
        )
    elif _over(linear.error, check.linear_error):
        coarse = linear.error is not None and linear.error < _LOST_RATIO
        yield Problem(
            f"{linear.name} is {_percent(linear.error)} off the original's weights, at most {check.linear_error:.0%} "
            "are allowed",
            "Set a smaller group_size, such as 64 or 32" if coarse else again,
        )
    elif _over(linear.group_error, check.group_error):
        yield Problem(
            f"{linear.name}: group {linear.worst_group} of output {linear.worst_output} is "
            f"{_percent(linear.group_error)} off, at most {check.group_error:.0%} are allowed",
            again,
        )
    elif linear.steps is not None and _over(linear.steps, check.weight_steps):
        yield Problem(
            f"{linear.name}: a weight is {linear.steps:.1f} steps off, at most {check.weight_steps:g} are allowed",
            again,
        )
    if linear.bias_error is not None and _over(linear.bias_error, check.linear_error):
        yield Problem(f"{linear.name}: its bias is {_percent(linear.bias_error)} off the original's", again)


def _is_scaled(linear: LinearError, limit: float) -> bool:
    """Whether a linear is its original times a number that is not 1, and nothing worse."""
    if linear.scale is None or linear.error is None or linear.scale <= 0 or abs(linear.scale - 1) < _SCALE_TOLERANCE:
        return False
    # What the scale does not explain is at right angles to what it does.
    rest: float = max(linear.error**2 - (linear.scale - 1) ** 2, 0.0) ** 0.5
    return rest <= limit * max(linear.scale, 1.0)


def _of_text(text: TextResult, check: Check) -> Iterator[Problem]:
    remedy = "Set a smaller group_size, or calibrate on text that is more like this one; or raise check."
    for key, found, limit, words in (
        ("perplexity_increase", text.perplexity_increase, check.perplexity_increase, _perplexities(text)),
        ("mean_kl_nats", text.mean_kl_nats, check.mean_kl_nats, "the mean divergence is {} nats"),
        ("p99_kl_nats", text.p99_kl_nats, check.p99_kl_nats, "one token in a hundred diverges by more than {} nats"),
    ):
        if _over(found, limit):
            said = words.format("no number" if found is None else f"{found:.3g}")
            yield Problem(f"held-out text: {said}, {limit:g} are allowed", remedy + key)
    if text.top1_agreement_ratio is None or text.top1_agreement_ratio < check.top1_agreement:
        yield Problem(
            f"held-out text: the likeliest next token is the original's for {_percent(text.top1_agreement_ratio)} of "
            f"the tokens, {check.top1_agreement:.0%} are required",
            remedy + "top1_agreement",
        )


def _perplexities(text: TextResult) -> str:
    before, after = (
        "no number" if value is None else f"{value:.4g}" for value in (text.perplexity_original, text.perplexity_result)
    )
    return f"perplexity rises from {before} to {after}, by a share of {{}}"


def _over(value: float | None, limit: float) -> bool:
    return value is None or value > limit


def _percent(ratio: float | None) -> str:
    return "no number" if ratio is None else f"{ratio:.0%}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _worst_experts(linears: Iterator[LinearError]) -> tuple[LinearError, ...]:
    """Of a layer's experts only the worst of each kind: there may be hundreds."""
    kept: dict[tuple[int, str], LinearError] = {}
    for linear in linears:
        before, experts, after = linear.name.partition(".experts.")
        key = (linear.layer, before + experts + (after.partition(".")[2] if experts else ""))
        other = kept.get(key)
        if other is None or _badness(linear) > _badness(other):
            kept[key] = linear
    return tuple(kept.values())


def _badness(linear: LinearError) -> tuple[float, ...]:
    values = (linear.error, linear.group_error, linear.steps)
    return tuple(math.inf if value is None else value for value in values)
