"""Signals that ask a command to end, noted instead of obeyed, so that what it started can be ended first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from planner.errors import LmplanError


class EndedBySignal(LmplanError):
    """The user ended the command (exit 128 and the signal's number, as shells do); `state`: how that leaves things."""

    def __init__(self, signal_number: int, state: str = "", hint: str = "") -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"ended by {name}; {state}" if state else f"ended by {name}", hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The signals that came, while the block runs; none of them ends lmplan by itself.

    One that lmplan was started to ignore stays ignored: `nohup` asks for that with SIGHUP, and shells with the SIGINT
    of what they start in the background.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    previous = {}
    # Handlers can only be set in the main thread; elsewhere (in tests) signals keep their meaning.
    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
