"""Looking at the values of scales without numpy: half and bfloat16 words tell zero, Inf and NaN by their bits.

A 16-bit float is zero when nothing but its sign bit is set, and Inf or NaN when all its exponent bits are. A scale is
the range of a group's weights over 15, so it is never negative, and LMDeploy never lets it be zero.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from planner.errors import UsageError
from planner.files.escape import shown
from planner.files.reading import WEIGHTS, open_regular
from planner.model.dtypes import DType

_EXPONENT: Final = {DType.F16: 0x7C00, DType.BF16: 0x7F80}
_MANTISSA: Final = {DType.F16: 0x03FF, DType.BF16: 0x007F}


@dataclass(frozen=True, slots=True)
class Oddities:
    """How many values of a tensor are NaN, infinite, zero or negative, out of `count`."""

    count: int
    nan: int
    infinite: int
    zero: int
    negative: int

    @property
    def problem(self) -> str:
        """What makes these scales unusable, or an empty string."""
        if self.nan:
            return f"{self.nan} of {self.count} scales are NaN"
        if self.infinite:
            return f"{self.infinite} of {self.count} scales are infinite"
        if self.negative:
            return f"{self.negative} of {self.count} scales are negative"
        if self.zero == self.count:
            return f"all {self.count} scales are zero"
        return ""


def look_at(words: bytes | memoryview, dtype: DType) -> Oddities:
    """Count what is odd among 16-bit floats.

    Distinct words are counted, of which there are at most 65536, so an 8B model's scales take seconds and not minutes.
    """
    values = array("H")
    values.frombytes(words)
    exponent, mantissa = _EXPONENT[dtype], _MANTISSA[dtype]
    nan = infinite = zero = negative = 0
    distinct = set(values)
    odd = [w for w in distinct if w & exponent == exponent or not w & 0x7FFF or w & 0x8000]
    for word in odd:
        number = values.count(word)
        if word & exponent == exponent:
            if word & mantissa:
                nan += number
            else:
                infinite += number
        elif not word & 0x7FFF:
            zero += number
        else:
            negative += number
    return Oddities(len(values), nan, infinite, zero, negative)


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a file that is not empty, read as they are needed.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with (
            open_regular(path, WEIGHTS) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            yield view
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {shown(path)}: {error}") from None
