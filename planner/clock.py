"""The day, for what is written down."""

from __future__ import annotations

import datetime
import os
import re
from typing import Final

from planner.errors import UsageError

_VARIABLE: Final = "SOURCE_DATE_EPOCH"
_LAST_S: Final = 253_402_300_799
"""The last second of the year 9999, after which Python has no dates."""


def today() -> str:
    """The day in UTC; SOURCE_DATE_EPOCH stands in for the clock, so that a file can be made again byte for byte.

    Raises:
        UsageError: the variable holds something else than a time (https://reproducible-builds.org/specs/source-date-epoch,
            which asks to fail then).
    """
    seconds = os.environ.get(_VARIABLE, "")
    if not seconds:
        return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    if not re.fullmatch(r"[0-9]{1,12}", seconds) or int(seconds) > _LAST_S:
        raise UsageError(f"{_VARIABLE} is {seconds[:40]!r}; expected seconds since 1970, up to {_LAST_S}")
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).date().isoformat()
