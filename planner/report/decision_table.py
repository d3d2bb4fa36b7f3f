"""A decision for the terminal and as Markdown."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from planner.advise.decision import Weighed
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
    for weighed in advice.limits:
        assert weighed.users is not None and weighed.context is not None
        at = weighed.users.trial or weighed.context.trial
        rows.append(
            [
                text.hardware(weighed.offer, weighed.option),
                text.short_option(weighed.option),
                f"{weighed.users.value:,}",
                f"{weighed.context.value:,}",
                f"{at.settings.cache_max_entry_count:g}" if at else "",
                "" if at else weighed.lack,
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
    return [_row(weighed, advice) for weighed in text.worth_showing(advice)]


def _row(weighed: Weighed, advice: Advice) -> list[str]:
    trial = weighed.trial
    chosen = advice.decision.chosen if advice.decision.give is None else None
    return [
        text.hardware(weighed.offer, weighed.option),
        text.short_option(weighed.option),
        f"{trial.settings.cache_max_entry_count:g}" if trial and trial.serves else "",
        f"{trial.users:,}" if trial and trial.serves else "",
        text.rejected(weighed, chosen),
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
