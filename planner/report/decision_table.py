"""A decision for the terminal and as Markdown."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from planner.advise.decision import Evaluation
from planner.api.advice import Advice
from planner.report import decision_text as text
from planner.report import wording

_WIDTH = 100


def render(advice: Advice) -> str:
    """The decision, the reasons, every option and the command; lines end in a newline."""
    blocks = [
        _wrap(text.asked(advice)),
        _wrap(text.headline(advice)),
        "\n".join(_item(sentence) for sentence in text.why(advice)),
        tabulate(_rows(advice), headers=_HEADERS, tablefmt="simple", disable_numparse=True, colalign=_ALIGN),
        _commands(advice),
        "\n".join(textwrap.fill(f"Note: {note}.", _WIDTH, subsequent_indent="  ") for note in advice.notes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def render_limits(advice: Advice) -> str:
    """For every option the most users and the longest context; lines end in a newline."""
    load = advice.decision.load
    headers = [
        "GPUs",
        "weights, KV bits",
        f"users at {load.context_tokens:,}",
        f"tokens for {load.num_users:,}",
        "ratio",
        "limited by",
    ]
    table = tabulate(limit_rows(advice), headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{_wrap(text.asked(advice))}\n\n{table}\n"


def limit_rows(advice: Advice) -> list[list[str]]:
    """Cells of the table of limits."""
    rows = []
    for evaluation in advice.limits:
        assert evaluation.users is not None and evaluation.context is not None
        at = evaluation.users.candidate or evaluation.context.candidate
        rows.append(
            [
                text.hardware(evaluation.offer, evaluation.option),
                text.short_option(evaluation.option),
                f"{evaluation.users.value:,}",
                f"{evaluation.context.value:,}",
                f"{at.settings.cache_max_entry_count:g}" if at else "",
                "" if at else evaluation.lack,
            ]
        )
    return rows


def render_markdown(advice: Advice) -> str:
    """The same for a ticket or a wiki."""
    parts = [
        f"## {text.asked(advice)}",
        f"**{text.headline(advice)}**",
        "\n".join(f"- {sentence}" for sentence in text.why(advice)),
        tabulate(_rows(advice), headers=_HEADERS, tablefmt="github", disable_numparse=True),
        *(f"### {a.title}\n\n```\n{a.text}```" for a in advice.artefacts()),
        "\n".join(f"- Note: {note}" for note in advice.notes),
        wording.CAPACITY_NOT_FOOTPRINT,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_HEADERS = ["GPUs", "weights, KV bits", "ratio", "users", "verdict"]
_ALIGN = ("left", "left", "right", "right", "left")


def _rows(advice: Advice) -> list[list[str]]:
    return [_row(evaluation, advice) for evaluation in text.worth_showing(advice)]


def _row(evaluation: Evaluation, advice: Advice) -> list[str]:
    candidate = evaluation.candidate
    chosen = advice.decision.chosen if advice.decision.relaxation is None else None
    return [
        text.hardware(evaluation.offer, evaluation.option),
        text.short_option(evaluation.option),
        f"{candidate.settings.cache_max_entry_count:g}" if candidate and candidate.serves else "",
        f"{candidate.users:,}" if candidate and candidate.serves else "",
        text.rejected(evaluation, chosen),
    ]


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
