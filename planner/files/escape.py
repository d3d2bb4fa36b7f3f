"""Text from outside, made harmless where it is shown: one escaping for each target.

Names of tensors, folders, models and workloads, and the last words of a child process, are whatever their authors
wrote: escape sequences that rewrite a terminal, formulas that a spreadsheet runs, marks that turn the text around.
Letters of every script stay; only what is not text becomes visible.
"""

from __future__ import annotations

import html as _html
import re
import unicodedata
from pathlib import Path
from typing import Final

_MAX_SHOWN: Final = 200
"""Characters of a name in a message: one line, whatever its author thought."""
_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")
"""Colours and weights, the one escape sequence that lmplan writes itself."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula (OWASP, CSV Injection)."""


def visible(text: str) -> str:
    """`text` on one line with everything invisible spelled out: a newline is ``\\n``, an escape ``\\x1b``.

    Python counts as invisible: controls, marks that turn the text around, zero widths, surrogates, unassigned code
    points, and every space but the plain one.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _spelled(c) for c in text)


def shown(text: str | Path) -> str:
    """A name or value for a message: visible, and of at most 200 characters."""
    whole = visible(str(text))
    if len(whole) <= _MAX_SHOWN:
        return whole
    half = _MAX_SHOWN // 2
    return f"{whole[: half - 3]}...{whole[-half:]}"


def terminal(text: str) -> str:
    """A whole output for a terminal: lines, spaces of any width and colours stay, all else that is invisible is spelled
    out.
    """
    if text.isascii() and not _CONTROLS.search(text):
        return text
    pieces = []
    at = 0
    for match in _SGR.finditer(text):
        pieces += [_lines(text[at : match.start()]), match[0]]
        at = match.end()
    return "".join([*pieces, _lines(text[at:])])


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def _lines(text: str) -> str:
    # Nearly every line is printable as it stands; only others are looked at letter by letter.
    return "\n".join(line if line.isprintable() else _line(line) for line in text.split("\n"))


def _line(text: str) -> str:
    return "".join(c if c == "\t" or unicodedata.category(c) == "Zs" else visible(c) for c in text)


def html(text: str) -> str:
    """Text or an attribute's value in HTML and SVG; lines stay lines."""
    return _html.escape(_lines(text), quote=True)


def csv_cell(text: str) -> str:
    """A cell that a spreadsheet shows and does not run; quoting is the csv module's."""
    cell = visible(text)
    return f"'{cell}" if text.startswith(_FORMULA) or cell.startswith(_FORMULA) else cell


def markdown(text: str) -> str:
    """Text inside a line or table cell of Markdown; underscores within words mean nothing there and stay."""
    return re.sub(r"([\\`*\[\]<>|#&]|(?<!\w)_|_(?!\w))", r"\\\1", visible(text))


def compose(text: str) -> str:
    """A value in a compose file, where ``$`` starts a variable."""
    return text.replace("$", "$$")


def kubernetes_argument(text: str) -> str:
    """A container argument, where ``$(NAME)`` is replaced by a variable."""
    return text.replace("$(", "$$(")


def dns_label(text: str, fallback: str = "model") -> str:
    """A name for a Service, a volume or a container (RFC 1123 and 1035): letters, digits and dashes, at most 50
    characters, beginning with a letter and ending with a letter or digit.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    label = "-".join(re.findall(r"[a-z0-9]+", ascii_text))
    if label and not label[0].isalpha():
        label = f"{fallback}-{label}"
    return label[:50].rstrip("-") or fallback


def image_tag(text: str) -> str:
    """A tag of a container image: letters, digits, ``_``, ``.`` and ``-``, not beginning with the last two."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip(".-")[:128] or "latest"


def _spelled(character: str) -> str:
    """A character as Python spells it: ``\\n``, ``\\x1b``, ``\\u202e``."""
    return character.encode("unicode_escape").decode("ascii")
