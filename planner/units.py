"""Bytes in, text out. The only place where a byte count becomes GiB."""

from __future__ import annotations

import re
from typing import Final

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
MAX_SIZE_BYTES: Final = 2**50
"""No GPU memory is near this; a larger size is a slip."""

_UNITS: Final = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*")


def parse_bytes(text: str) -> int:
    """Read a size with its unit, e.g. ``24GiB`` (2**30) or ``24GB`` (10**9).

    Raises:
        ValueError: there is no unit, the unit is unknown, or the size is zero or absurd.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size with its unit, e.g. 24GiB or 24GB")
    number, unit = match.groups()
    factor = _UNITS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{text!r} has the unknown unit {unit!r}; use MiB, GiB, MB or GB")
    size = float(number) * factor
    if not 0.5 < size < MAX_SIZE_BYTES:
        raise ValueError(f"{text[:40]!r} is not between one byte and {format_gib(MAX_SIZE_BYTES, 0)}")
    return round(size)


def format_gib(size_bytes: int, digits: int = 2) -> str:
    """``1610612736`` -> ``1.50 GiB``."""
    return f"{size_bytes / GIB:.{digits}f} GiB"


def format_bytes(size_bytes: int) -> str:
    """A size in the binary unit that reads best: ``512 B``, ``8.0 MiB``, ``1.50 GiB``."""
    if abs(size_bytes) >= GIB:
        return format_gib(size_bytes)
    if abs(size_bytes) >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    if abs(size_bytes) >= KIB:
        return f"{size_bytes / KIB:.1f} KiB"
    return f"{size_bytes} B"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 token``, ``56,832 tokens``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division that rounds up."""
    return -(-numerator // denominator)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return ceil_div(value, multiple) * multiple


def ceil_pow2(value: int) -> int:
    """The smallest power of two that is at least `value` (which is at least 1)."""
    return 1 << (value - 1).bit_length()
