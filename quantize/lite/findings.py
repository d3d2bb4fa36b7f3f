"""What a preflight finds: something that stops a run or is worth a thought, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """An ERROR stops the run; a WARNING is for the reader to weigh."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a run would trip over: what, and the remedy. `exit_code` is that of the refusal."""

    severity: Severity
    what: str
    remedy: str
    exit_code: int = 2


def error(what: str, remedy: str, exit_code: int = 2) -> Finding:
    """Something that stops the run."""
    return Finding(Severity.ERROR, what, remedy, exit_code)


def warning(what: str, remedy: str) -> Finding:
    """Something to weigh."""
    return Finding(Severity.WARNING, what, remedy)
