"""A decision for the terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from planner.advise.candidates import Candidate
from planner.api.advice import Advice
from planner.files.escape import markdown as escape
from planner.report import decision_text as text
from planner.report import wording

_WIDTH = 100


def render(advice: Advice) -> str:
    """The decision, the reasons, every option and the command; lines end in a newline."""
    blocks = [
        _wrap(text.asked(advice)),
        _wrap(text.headline(advice)),
        "\n".join(_item(sentence) for sentence in text.why(advice)),
        _table(advice, "simple"),
        _commands(advice),
        "\n".join(textwrap.fill(f"Note: {note}.", _WIDTH, subsequent_indent="  ") for note in advice.notes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def render_limits(advice: Advice) -> str:
    """For every option the most users and the longest context; lines end in a newline."""
    load, evaluations = advice.decision.load, advice.limits
    at = [
        next((limit.candidate for limit in (e.users, e.context) if limit and limit.candidate), None)
        for e in evaluations
    ]
    # Batch and session are those of the limit itself.
    prefill = "prefill" in _differing([candidate for candidate in at if candidate])
    rows = []
    for evaluation, candidate in zip(evaluations, at, strict=True):
        assert evaluation.users is not None and evaluation.context is not None
        rows.append(
            [
                text.hardware(evaluation.offer, evaluation.option),
                text.short_option(evaluation.option),
                f"{evaluation.users.value:,}",
                f"{evaluation.context.value:,}",
                f"{candidate.settings.cache_max_entry_count:g}" if candidate else "",
                *([f"{candidate.settings.max_prefill_token_num:,}" if candidate else ""] if prefill else []),
                "" if candidate else evaluation.lack,
            ]
        )
    headers = ["GPUs", "weights, KV bits", f"users at {load.context_tokens:,}", f"tokens for {load.num_users:,}"]
    headers += ["ratio", *(["prefill"] if prefill else []), "limited by"]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{_wrap(text.asked(advice))}\n\n{table}\n"


def render_markdown(advice: Advice) -> str:
    """The same for a ticket or a wiki."""
    parts = [
        f"## {escape(text.asked(advice))}",
        f"**{escape(text.headline(advice))}**",
        "\n".join(f"- {sentence}" for sentence in text.why(advice)),
        _table(advice, "github"),
        *(f"### {a.title}\n\n```\n{a.text}```" for a in advice.artefacts()),
        "\n".join(f"- Note: {note}" for note in advice.notes),
        wording.CAPACITY_NOT_FOOTPRINT,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_LENGTHS = {"session": "session_len", "batch": "max_batch_size", "prefill": "max_prefill_token_num"}
"""Columns of settings that are the same in every row of most tables, and shown where they are not."""


def _table(advice: Advice, form: str) -> str:
    """Every option. What differs between the rows that serve is in a column."""
    options, chosen = advice.decision.options, advice.decision.chosen if advice.decision.relaxation is None else None
    lengths = _differing([e.candidate for e in options if e.candidate and e.serves])
    rows = []
    for evaluation in options:
        candidate = evaluation.candidate if evaluation.serves else None
        settings = candidate.settings if candidate else None
        rows.append(
            [
                text.hardware(evaluation.offer, evaluation.option),
                text.short_option(evaluation.option),
                f"{settings.cache_max_entry_count:g}" if settings else "",
                *(f"{getattr(settings, _LENGTHS[name]):,}" if settings else "" for name in lengths),
                f"{candidate.users:,}" if candidate else "",
                text.rejected(evaluation, chosen),
            ]
        )
    headers = ["GPUs", "weights, KV bits", "ratio", *lengths, "users", "verdict"]
    align = ("left", "left", *("right" for _ in headers[3:]), "left")
    return tabulate(rows, headers=headers, tablefmt=form, disable_numparse=True, colalign=align)


def _differing(candidates: Sequence[Candidate]) -> list[str]:
    """The lengths in which candidates differ."""
    return [name for name, key in _LENGTHS.items() if len({getattr(c.settings, key) for c in candidates}) > 1]


def _commands(advice: Advice) -> str:
    wanted = [artefact for artefact in advice.artefacts() if artefact.key in ("api_server", "quantize")]
    lines = []
    for artefact in wanted:
        lines.append(f"{artefact.title}\n\n{textwrap.indent(artefact.text.rstrip(), '  ')}")
    return "\n\n".join(lines)


def _wrap(line: str) -> str:
    return textwrap.fill(line, _WIDTH)


def _item(sentence: str) -> str:
    return textwrap.fill(f"- {sentence}.", _WIDTH, initial_indent="  ", subsequent_indent="    ")
