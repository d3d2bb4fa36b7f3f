"""The ways lmplan can say no. Each class carries its exit code; `planner.cli.main.run` prints and returns it."""

from __future__ import annotations

from collections.abc import Iterable


class LmplanError(Exception):
    """A problem that the user can act on.

    Attributes:
        message: one line, without a trailing period, that names what is wrong.
        hint: one line that says what to do, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LmplanError):
    """An option, a file or a value that cannot be used as given (exit 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A config.json whose value is missing or cannot be right (exit 2)."""


class DoesNotFitError(LmplanError):
    """The plan is sound and the model does not fit (exit 3)."""

    exit_code = 3


class UnsupportedModelError(LmplanError):
    """A model that lmplan or the engine does not know (exit 4)."""

    exit_code = 4


def not_planned(mechanism: str) -> UnsupportedModelError:
    """LMDeploy serves it and lmplan does not plan it yet, which is not the same as a refusal of LMDeploy's."""
    return UnsupportedModelError(f"lmplan does not plan {mechanism} yet")


class EnvironmentProblem(LmplanError):
    """Something this machine lacks: LMDeploy, a GPU, a network, disk (exit 5)."""

    exit_code = 5


class ChildFailedError(LmplanError):
    """A child process that lmplan started failed (exit 6)."""

    exit_code = 6


class CheckFailedError(LmplanError):
    """A result that was made and did not pass its check (exit 7)."""

    exit_code = 7


class OverloadError(LmplanError):
    """A plan that starts and serves, and that full load may end (exit 8)."""

    exit_code = 8


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The `limit` names of `known` closest to `word`, best first; case does not count."""
    import difflib  # only where a name is unknown

    by_lower = {name.lower(): name for name in known}
    hits = difflib.get_close_matches(word.lower(), by_lower, n=limit, cutoff=0.5)
    return [by_lower[hit] for hit in hits]


def perhaps(word: str, known: Iterable[str]) -> str:
    """A hint "Perhaps you meant a, b" for an unknown `word`, or an empty string."""
    names = nearest(word, known)
    return f"Perhaps you meant {', '.join(names)}" if names else ""
