"""What changed between two plan files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import UsageError
from planner.files import reading
from planner.files.escape import shown
from planner.units import format_bytes, format_gib

READABLE: Final = {
    "lmplan.report/1": ("provenance", "decision", "options"),
    "lmplan.recommend/1": ("model", "load", "options"),
    "lmplan.estimate/1": ("model", "settings", "per_gpu"),
}
"""The forms of plans, each with keys that a whole one has."""
_TEXTS: Final = ("formula", "why", "notes", "evidence", "reasons")
"""Keys whose values only restate others."""
_NAMES: Final = ("name", "quant_policy", "context_tokens")
"""Keys by which the entries of a list are told apart, the first that is there."""


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the plans that differs; None where one of them lacks it. `path` leads to it, key by key."""

    path: tuple[str, ...]
    old: Any
    new: Any

    @property
    def where(self) -> str:
        """The path as people write it."""
        return shown(".".join(self.path))

    @property
    def is_bytes(self) -> bool:
        """Whether the values count bytes."""
        return self.path[-1].endswith("_bytes") or "bytes" in self.path[1:]

    @property
    def is_detail(self) -> bool:
        """Whether it only follows from what else changed: ends of bands, other options, charts, further artefacts."""
        first, *between, last = self.path if len(self.path) > 1 else ("", *self.path)
        artefact = "artefacts" in between and last != "api_server"
        other = "options" in between and last not in ("serves", "verdict")
        return first in ("options", "capacity") or last in ("low", "high") or artefact or other

    def old_text(self) -> str:
        """The old value for people."""
        return self._text(self.old)

    def new_text(self) -> str:
        """The new value for people."""
        return self._text(self.new)

    def difference(self) -> str:
        """By how much a number moved; empty for anything else."""
        if not _is_number(self.old) or not _is_number(self.new):
            return ""
        step = self.new - self.old
        sign = "+" if step > 0 else "-"
        if self.is_bytes:
            size = _size(abs(int(step)))
        else:
            size = f"{abs(step):,}" if isinstance(step, int) else f"{abs(step):,.4g}"
        return f"{sign}{size}" + (f" ({step / self.old:+.1%})" if self.old else "")

    def _text(self, value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return _size(value) if self.is_bytes else f"{value:,}"
        return f"{value:g}" if isinstance(value, float) else shown(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _size(num_bytes: int) -> str:
    """GiB for what fills a GPU, and a smaller unit for what GiB would round away, such as a block of the KV cache."""
    return format_gib(num_bytes) if num_bytes >= 2**28 else format_bytes(num_bytes)


def read_plan(path: Path) -> dict[str, Any]:
    """A plan that `estimate`, `recommend` or `report` wrote with --format json.

    Raises:
        UsageError: not there, not JSON, no plan, or a plan whose form this lmplan does not read.
    """
    value = reading.read_object(path, reading.PLAN)
    schema = value.get("schema")
    if not isinstance(schema, str) or not schema.startswith("lmplan."):
        raise UsageError(f"{shown(path)} is not a plan from lmplan", reading.PLAN.hint)
    if schema not in READABLE:
        raise UsageError(
            f"{shown(path)} has the form {shown(schema)}, which this lmplan does not read; "
            f"it reads {', '.join(READABLE)}",
            "Make that plan again with this version: its settings are under `load` and `settings`",
        )
    lacking = [key for key in READABLE[schema] if key not in value]
    if lacking:
        raise UsageError(
            f"{shown(path)} is not a complete {schema}: it lacks {', '.join(lacking)}", "Make that plan again"
        )
    return value


def diff(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """What differs, in the order of the new plan, then what only the old one has.

    Raises:
        UsageError: the two are of different kinds.
    """
    if old["schema"] != new["schema"]:
        raise UsageError(f"the plans are of different kinds: {old['schema']} and {new['schema']}")
    before, after = dict(_leaves(old, ())), dict(_leaves(new, ()))
    paths = [*after, *(path for path in before if path not in after)]
    return [Change(p, before.get(p), after.get(p)) for p in paths if before.get(p) != after.get(p)]


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _TEXTS:
                yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, _entry(inner, index)))
    elif value is not None and path:
        yield path, value


def _entry(value: Any, index: int) -> str:
    """How an entry of a list is called: by what tells it apart, so that an inserted one does not move the others."""
    if not isinstance(value, dict):
        return str(index)
    if "weights" in value and "quant_policy" in value:
        return f"{value.get('num_gpus', 1)} {value.get('gpu', '')} {value['weights']} kv{value['quant_policy']}"
    return next((str(value[name]) for name in _NAMES if name in value), str(index))
