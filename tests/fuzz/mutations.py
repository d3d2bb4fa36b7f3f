"""Inputs that went wrong somewhere: values, bytes and words, each changed in a few places by a seeded generator."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

HOSTILE = (
    "",
    " ",
    "-",
    "--tp=9",
    "-x",
    ".",
    "..",
    "/",
    "~",
    "a" * 250,
    "n" * 5000,
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "=cmd|' /C calc'!A0",
    "@SUM(A1)",
    "$(touch owned)",
    "${HOME}",
    "`id`",
    "#x onmouseover=alert(1)",
    "<script>alert(1)</script>",
    "a'b\"c",
    "two\nlines",
    "tab\there",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "模型",
    "null",
    "NaN",
    "1e999",
    "0x10",
    "1_000",
    "9" * 400,
    "9" * 5000,
    "0.18.0",
    "24GiB",
    "true",
    "!!timestamp z",
    "*alias",
    "&anchor",
    "{{ template }}",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    128,
    4096,
    2**14 + 1,
    2**24 + 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    10**400,
    0.5,
    1 / 3,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
)


def odd(rng: random.Random, levels: int = 3) -> Any:
    """A value of any kind that seldom belongs where it is put; lists and objects nest by so many levels at most."""
    kind = rng.randrange(8 if levels else 6)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(HOSTILE)
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return [odd(rng, levels - 1) for _ in range(rng.choice((0, 1, 2, 40)))]
    return {rng.choice(HOSTILE): odd(rng, levels - 1) for _ in range(rng.choice((0, 1, 3)))}


def mutate(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to four places changed, removed, doubled, swapped or moved."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(changed))
        if not places:
            return odd(rng)
        holder, key = rng.choice(places)
        _change(holder, key, rng)
    return changed


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        keys: Sequence[Any] = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                todo.append(holder[key])
    return found


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    old = holder[key]
    kind = rng.randrange(7)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(old, (int, float)) and not isinstance(old, bool):
        small = max(-(10**9), min(old, 10**9)) if old == old else 0  # a float takes no number of 400 digits
        holder[key] = rng.choice((old + 1, old - 1, -old, old * 2, old * 10**6, str(small), float(small), small / 3))
    elif kind == 2 and isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        holder[key] = old[:at] + rng.choice(HOSTILE) + old[at + rng.randrange(3) :]
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice((*HOSTILE, *holder))] = holder.pop(key)
    elif kind == 4 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
    elif kind == 5 and isinstance(holder, dict):
        holder[key] = copy.deepcopy(rng.choice([*holder.values()]))
    else:
        holder[key] = odd(rng)


def as_json(value: Any) -> bytes:
    """JSON as a careless program writes it: NaN, infinities and lone surrogates included."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes with pieces flipped, cut, doubled, or something else put in."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        elif kind == 3:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 4:
            data[at:at] = rng.choice(HOSTILE).encode()
        else:
            data = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def mutate_text(raw: bytes, rng: random.Random) -> bytes:
    """Lines of text changed as people do: indented, doubled, lost, with another value behind the colon."""
    lines = raw.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        line, kind = lines[at], rng.randrange(7)
        if kind == 0:
            lines.insert(at, line)
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at] = b" " * rng.choice((1, 2, 4)) + line
        elif kind == 3:
            lines[at] = line.lstrip()
        elif kind == 4 and b":" in line:
            lines[at] = line.partition(b":")[0] + b": " + _yaml_value(rng)
        elif kind == 5 and b":" in line:
            key = rng.choice((*HOSTILE, "schema", "model")).encode()
            lines[at] = key + b":" + line.partition(b":")[2]
        else:
            return mutate_bytes(b"\n".join(lines), rng)
    return b"\n".join(lines)


def _yaml_value(rng: random.Random) -> bytes:
    value = odd(rng)
    if isinstance(value, str) and rng.randrange(2):
        return value.encode()  # bare, as a person types it
    return as_json(value)
