"""Lines out of what a child process prints, whatever pieces it arrives in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_MAX_LINE: Final = 2**16


class LineSplitter:
    """Bytes in pieces of any size -> lines of bounded length. A carriage return ends a line too: progress bars."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes. Of a line longer than 64 KiB only the beginning is given."""
        for piece in re.split(rb"([\r\n])", data):
            if piece in (b"\r", b"\n"):
                if self._rest:
                    yield self._rest.decode("utf-8", "replace")
                self._rest.clear()
                self._skipping = False
            elif not self._skipping:
                room = _MAX_LINE - len(self._rest)
                self._rest += piece[:room]
                self._skipping = len(piece) > room

    def end(self) -> Iterator[str]:
        """The last line, where no newline ended it."""
        if self._rest:
            yield self._rest.decode("utf-8", "replace")
        self._rest.clear()
