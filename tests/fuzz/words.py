"""Command lines: options that exist with values that seldom fit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import click

from planner.cli.main import COMMANDS, lmplan, run
from tests.fuzz.examples import pair
from tests.fuzz.mutations import HOSTILE, NUMBERS

_GOOD_START: Mapping[str, list[str]] = {
    "estimate": ["--model", "qwen3-8b", "--gpu", "a10"],
    "recommend": ["--model", "qwen3-8b", "--gpu", "a10"],
    "report": ["--model", "qwen3-8b", "--gpu", "a10"],
    "sweep": ["docs/fleet.yaml"],
    "measure": ["--model", "qwen3-8b", "--python", "/nonexistent"],
    "compare": ["estimate.json", "measurement.json"],
    "quantize": ["tiny-llama", "--dry-run"],
    "inspect": ["folder"],
}


def line(rng: random.Random, folder: Path) -> int:
    """A command with up to four options of its own, in any number, and now and then a word that is none."""
    name = rng.choice([*COMMANDS])
    command = lmplan.get_command(click.Context(lmplan), name)
    assert command is not None
    words = [name]
    params = [p for p in command.params if isinstance(p, click.Option) and not {"--help"} & set(p.opts)]
    if rng.randrange(4):
        words += [_placed(word, folder) for word in _GOOD_START.get(name, [])]
    for option in rng.sample(params, min(len(params), rng.choice((0, 1, 2, 4)))):
        words.append(rng.choice(option.opts))
        for _ in range(0 if option.is_flag else option.nargs):
            words.append(_value(option, rng, folder))
    if rng.randrange(4) == 0:
        words.insert(rng.randrange(len(words) + 1), rng.choice(HOSTILE))
    return run([word for word in words if "\0" not in word])


def _placed(word: str, folder: Path) -> str:
    """Files that a command line names are made."""
    if word == "folder":
        return str(folder)
    for name, raw in zip(("estimate.json", "measurement.json"), pair(), strict=True):
        if word == name:
            (folder / name).write_bytes(raw)
            return str(folder / name)
    return word


def _value(option: click.Option, rng: random.Random, folder: Path) -> str:
    if isinstance(option.type, click.Choice) and rng.randrange(3):
        return str(rng.choice(list(option.type.choices)))
    if isinstance(option.type, click.Path) or option.name in ("output", "out", "write", "folder"):
        return rng.choice((str(folder / "out.txt"), str(folder), "/dev/null", "-", ""))
    if rng.randrange(2):
        return str(rng.choice(NUMBERS))
    # Names that look like ids of the Hub are looked up there; a slash makes one.
    return rng.choice([text for text in HOSTILE if "/" not in text[1:]])
