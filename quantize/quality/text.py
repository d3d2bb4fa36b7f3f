"""The held-out text: the user's, or a page of plain facts that comes with lmplan and is in nobody's calibration set."""

from __future__ import annotations

from typing import Final

from planner.errors import UsageError
from quantize.data import ROOT as DATA
from quantize.lite.dataset import read_rows
from quantize.quality.child import TEXT_SAMPLES, TEXT_SEQLEN
from quantize.recipe.model import Check, expanded

_CHARACTERS: Final = 16 * TEXT_SAMPLES * TEXT_SEQLEN
"""More than the text that is looked at has, for words of any language: a token of English takes four or five."""


def held_out_text(check: Check) -> str:
    """As much of the text as is looked at, or more.

    Raises:
        UsageError: the user's cannot be read, or there is none in it.
    """
    if check.text is None:
        return (DATA / "held_out.txt").read_text(encoding="utf-8")
    rows, characters = [], 0
    for row in read_rows(expanded(check.text), check.text_field):
        rows.append(row)
        characters += len(row)
        if characters > _CHARACTERS:
            break
    if not rows:
        raise UsageError(f"{check.text} holds no text", "Name a file of held-out text, or leave check.text out")
    return "\n\n".join(rows)[:_CHARACTERS]
