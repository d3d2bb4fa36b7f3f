"""What a run of the probe has shown so far, and what that makes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from planner.errors import UsageError
from planner.files.reading import PAGE, parse_json
from planner.units import MIB
from quantize.measure import probe
from quantize.measure.engine_log import EngineLog
from quantize.measure.measurement import Reading

_TAIL_LINES = 40
_STALLS_AFTER_S = 10.0
"""A warm-up request that found no room in the KV cache for so long never will: it is the only one."""
_FULL_BYTES = 32 * MIB
"""TurboMind's pools ask for pages of 32 MiB: where one is not left, it dies, and of what it does not always say."""


@dataclass(slots=True)
class Seen:
    """What the run has shown so far."""

    phases: list[Reading] = field(default_factory=list)
    log: EngineLog = field(default_factory=EngineLog)
    tail: list[str] = field(default_factory=list)
    load_peak_bytes: int = 0
    peak_bytes: int = 0
    versions: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    signal_number: int | None = None
    died: bool = False
    stalled: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The phases that were reached, in order."""
        return [phase.name for phase in self.phases]

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return "done" in self.names

    @property
    def waits_for_room(self) -> bool:
        """Whether a warm-up request found no room in the KV cache."""
        return self.log.cache_full and "loaded" not in self.names

    @property
    def last_words(self) -> str:
        """The last line that the engine printed."""
        return next((line for line in reversed(self.tail) if line), "")

    def hear(self, line: str) -> None:
        """Take a line of the engine's."""
        self.log.read(line)
        self.tail = [*self.tail[1 - _TAIL_LINES :], line.strip()[:500]]

    def outcome(self, free_bytes: int) -> str:
        """Which of `planner.evidence.forms.OUTCOMES` it was, on a device with so much free before."""
        if "short_request" in self.names or (self.done and "loaded" in self.names):
            return "serves"
        if self.log.no_room:
            return "no room for the KV cache"
        if self.stalled:
            return "hangs while warming up"
        full = self.died and free_bytes - self.peak_bytes < _FULL_BYTES
        if not self.log.out_of_memory and not full:
            return "failed"
        if self.log.kv_budget_bytes is None and self.log.blocks is None:
            return "dies while loading"
        return "dies while warming up"

    def speed(self) -> list[dict[str, Any]]:
        """Rates of decoding and of prefill, as the phases told them."""
        rates = []
        for phase in self.phases:
            seconds, tokens = _number(phase.facts, "seconds"), _number(phase.facts, "tokens")
            # A model whose values are not numbers may end each answer at once: no tokens, no speed.
            if phase.name in ("decode", "long_prefill") and min(seconds, tokens) > 0:
                rates.append(
                    {
                        "phase": "decode" if phase.name == "decode" else "prefill",
                        "batch": int(_number(phase.facts, "batch")) or 1,
                        "tokens_per_s": tokens / seconds,
                    }
                )
        return rates


class TimeLimit:
    """The time limit, and an earlier one once a warm-up request waits."""

    def __init__(self, time_limit_s: float) -> None:
        self.words = f"it had not finished after {time_limit_s:g} s and was ended"
        self._end = time.monotonic() + time_limit_s
        self._waits_since: float | None = None

    def end(self, seen: Seen) -> float:
        """By `time.monotonic`."""
        if not seen.waits_for_room:
            return self._end
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        return min(self._end, self._waits_since + _STALLS_AFTER_S)


def phase_facts(line: str) -> dict[str, Any] | None:
    """What the probe reports in a line; None for a line of the engine's."""
    _, mark, text = line.partition(probe.MARK)
    if not mark:
        return None
    try:
        facts = parse_json(text, PAGE, "a report of the probe")
    except UsageError:
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("phase"), str) else None


def _number(facts: dict[str, Any], name: str) -> float:
    """A number of a report, 0 where it is none: a model's own code could print such a line, too."""
    value = facts.get(name, 0)
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if usable else 0
