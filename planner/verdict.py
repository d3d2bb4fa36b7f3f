"""What becomes of a plan: how its start ends, and whether it then serves what was asked for."""

from __future__ import annotations

from planner.kinds import Word


class Outcome(Word):
    """How a start ends. Measurements have one, too."""

    SERVES = "serves"
    DIES_LOADING = "dies while loading"
    NO_ROOM = "no room for the KV cache"
    DIES_STARTING = "dies while warming up"
    HANGS_STARTING = "hangs while warming up"


class Verdict(Word):
    """How a start ends and, where the engine serves, what keeps it from serving what was asked for."""

    SERVES = "serves"
    UNTIL_FULL_LOAD = "serves until full load"
    NO_SESSION = "no room for a session"
    DIES_LOADING = str(Outcome.DIES_LOADING)
    NO_ROOM = str(Outcome.NO_ROOM)
    DIES_STARTING = str(Outcome.DIES_STARTING)
    HANGS_STARTING = str(Outcome.HANGS_STARTING)

    @property
    def outcome(self) -> Outcome:
        """How the start ends."""
        served = self in (Verdict.SERVES, Verdict.UNTIL_FULL_LOAD, Verdict.NO_SESSION)
        return Outcome.SERVES if served else Outcome(self.value)
