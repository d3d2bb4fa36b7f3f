"""The day, for what is written down."""

from __future__ import annotations

import datetime
import os


def today() -> str:
    """The day in UTC; SOURCE_DATE_EPOCH stands in for the clock, so that a file can be made again byte for byte."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.datetime.now(datetime.timezone.utc)
    if seconds.isdigit():
        now = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)
    return now.date().isoformat()
