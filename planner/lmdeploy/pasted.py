"""A command line that people paste, `lmdeploy serve api_server ...`, read back into settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from planner.errors import UsageError, perhaps
from planner.lmdeploy import options, versions
from planner.lmdeploy.settings import Request
from planner.lmdeploy.versions import LmdeployVersion
from planner.lmdeploy.words import Takes

_COMMAND = ("serve", "api_server")


class Pasted(NamedTuple):
    """What a command line says.

    Attributes:
        model: the folder or id that it serves.
        request: its settings.
        others: options that lmplan does not plan with, each with its words.
    """

    model: str
    request: Request
    others: dict[str, tuple[str, ...]]


def read_api_server(text: str, lmdeploy: LmdeployVersion) -> Pasted:
    """Read a command line as the parser of that version would, ``--tp 2`` and ``--tp=2`` alike.

    Raises:
        UsageError: it is no such command, names no model or several, has an option that the version does not know, or
            one with a value that it does not take.
    """
    models: list[str] = []
    given: dict[str, tuple[str, ...]] = {}
    for flag, words in _options(_arguments(text), lmdeploy):
        if flag:
            given[flag] = words
        else:
            models += words
    if len(models) != 1:
        raise UsageError(f"the command names {', '.join(models) or 'no model'}; expected one model")
    planned = {options.ENGINE_FLAG, options.FORMAT_FLAG, *(option.flag for option in options.OPTIONS)}
    values = {flag: words[0] for flag, words in given.items() if flag in planned}
    others = {flag: words for flag, words in given.items() if flag not in planned}
    return Pasted(models[0], options.read_values(values, lmdeploy), others)


def _arguments(text: str) -> list[str]:
    """The words behind `lmdeploy serve api_server`, which variables and the like may precede."""
    try:
        words = shlex.split(text.replace("\\\n", " ").replace("\\\r\n", " "))
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}") from None
    for at, word in enumerate(words):
        if PurePath(word).name == "lmdeploy" and tuple(words[at + 1 : at + 3]) == _COMMAND:
            return words[at + 3 :]
    raise UsageError("the command is not `lmdeploy serve api_server ...`")


def _options(words: list[str], lmdeploy: LmdeployVersion) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Options with their words; what belongs to none has no name."""
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not word.startswith("-"):
            yield "", (word,)
            continue
        typed, equals, value = word.partition("=")
        flag = _flag(typed, lmdeploy)
        option = versions.find_option(flag)
        assert option is not None, flag
        if equals:
            if option.takes is Takes.NONE:
                raise UsageError(f"{flag} takes no value")
            yield flag, (value,)
            continue
        end = at
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        taken = {Takes.NONE: 0, Takes.ONE: 1, Takes.MANY: end - at}[option.takes]
        if taken > end - at:
            raise UsageError(f"{flag} has no value")
        yield flag, tuple(words[at : at + taken])
        at += taken


def _flag(typed: str, lmdeploy: LmdeployVersion) -> str:
    """The option's own name for what was typed: newer parsers take underscores, and keys behind a dot."""
    flag = versions.spelled(typed, lmdeploy.rules)
    if not versions.has_option(flag, lmdeploy.rules):
        raise UsageError(
            f"`lmdeploy serve api_server` of LMDeploy {lmdeploy.version} has no option {typed}",
            perhaps(flag, list(versions.options(lmdeploy.rules))),
        )
    return flag
