"""The one way to open a file of the user's: regular files only, so many bytes at most, UTF-8, JSON that can be used.

A FIFO would wait for ever, a device has no end, and a header of gigabytes takes the memory of the machine: each is
refused before a byte is read. What a file holds is judged by whoever asked for it; that it can be read at all is
judged here, and always in the same words.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from planner.errors import UsageError
from planner.files.escape import shown

STDIN: Final = "-"
_JSON_KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_MAX_DIGITS: Final = 40
"""2**128 has 39 digits. Longer whole numbers are no quantity that anybody plans with, and some overflow a float."""

_MAX_DEPTH: Final = 100
"""Published configs reach 6 levels and plans 8; whoever walks a value may recurse."""
_MAX_MARKS: Final = 1_250_000
"""Brackets, colons and commas: a second's work. All tensors of DeepSeek-V3 in one header would take 1,104,000."""
_ODD_NUMBER: Final = re.compile(rf"[0-9]{{{_MAX_DIGITS + 1}}}|[eE]\+?[0-9]{{3}}")
"""What a number that nothing can be counted with has in it. Where it is nowhere, no number has to be asked about."""


class FileKind(NamedTuple):
    """What a file is for.

    Attributes:
        what: with its article, for messages: "a config.json".
        max_bytes: more than any good one has.
        hint: what to do where one cannot be read.
    """

    what: str
    max_bytes: int
    hint: str = ""


CONFIG: Final = FileKind("a config.json", 4 * 2**20)
"""The largest published one has 300 KB (per-layer quantization settings)."""
SETTINGS: Final = FileKind("settings of a tokenizer or processor", 4 * 2**20)
"""They are as long as configs, with a chat template besides."""
WEIGHTS: Final = FileKind("a file of weights", 2**63)
"""Only opened; of what is read, HEADER and TENSOR_LIST are the bounds."""
HEADER: Final = FileKind(
    "a safetensors header",
    16 * 2**20,
    "Download the weights again, or give the config.json itself to plan without them",
)
"""All 91,991 tensors of DeepSeek-V3 together take some 12 MB. The format's own bound of 100 MB takes 1 GB to read."""
INDEX: Final = FileKind("an index of weights", 16 * 2**20, HEADER.hint)
"""DeepSeek-V3's has 9 MB."""
TENSOR_LIST: Final = FileKind("the list of tensors in a torch file", 2 * 2**20, HEADER.hint)
"""Llama-2-70B's in AWQ has 230 KB for 1,843 tensors."""
PLAN: Final = FileKind("a plan", 4 * 2**20, "Plans come from `lmplan report --format json`")
"""One of three kinds of GPU has 26 KB."""
ESTIMATE: Final = FileKind("an estimate", 4 * 2**20, "Estimates come from `lmplan estimate --format json`")
MEASUREMENT: Final = FileKind("a measurement", 4 * 2**20, "Measurements come from `lmplan measure --out FILE`")
LEDGER: Final = FileKind("a ledger", 16 * 2**20)
"""The shipped one has 270 KB for 83 runs."""
HOSTS: Final = FileKind("calibrated hosts", 4 * 2**20, "`lmplan calibrate --reset` removes the file")
RECIPE: Final = FileKind("a recipe", 2**20)
FLEET: Final = FileKind("a fleet", 4 * 2**20)
MANIFEST: Final = FileKind("a manifest", 4 * 2**20)
PAGE: Final = FileKind("a server's page", 4 * 2**20)
TEXT: Final = FileKind("a calibration text", 2**63, "Name a .txt, .jsonl or .parquet file of your own text")
"""Read piece by piece."""


def open_regular(path: Path, kind: FileKind) -> BinaryIO:
    """Open a regular file for reading bytes. Nothing is waited for: a FIFO without a writer is refused like a device.

    Raises:
        UsageError: not there, not readable, or no regular file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(f"cannot read {shown(path)}: {error.strerror or error}", kind.hint) from None
    except ValueError:  # a NUL in the name
        raise UsageError(f"cannot read {shown(path)}: no such name can exist", kind.hint) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UsageError(f"{shown(path)} is {_special(mode)}; expected {kind.what}, a regular file", kind.hint)
    return os.fdopen(descriptor, "rb")


def is_file(path: Path) -> bool:
    """Whether a regular file is there, through links; not for a name that no file can have, nor where none may look."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """The same of a folder."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def read_bytes(path: Path, kind: FileKind, label: str = "") -> bytes:
    """All of a file, or all of standard input for ``-``.

    Args:
        label: what messages call the file; its path by default.

    Raises:
        UsageError: as `open_regular`, or larger than its kind may be.
    """
    label = label or _label(path)
    if str(path) == STDIN:
        raw = _stdin(kind)
    else:
        with open_regular(path, kind) as file:
            try:
                raw = file.read(kind.max_bytes + 1)
            except OSError as error:
                raise UsageError(f"cannot read {label}: {error.strerror or error}", kind.hint) from None
    if len(raw) > kind.max_bytes:
        raise UsageError(f"{label} has more than {kind.max_bytes} bytes, too many for {kind.what}", kind.hint)
    return raw


def read_text(path: Path, kind: FileKind, label: str = "") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UsageError: as `read_bytes`, or not UTF-8; names the byte.
    """
    return _decoded(read_bytes(path, kind, label), kind, label or _label(path))


def _decoded(raw: bytes, kind: FileKind, label: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{label} is not UTF-8 text: byte {error.start}", kind.hint) from None


def read_json(path: Path, kind: FileKind, label: str = "") -> Any:
    """The value that a JSON file holds. Numbers are finite and of a length that can be counted with.

    Raises:
        UsageError: as `read_text`, or not JSON; names line and column.
    """
    return parse_json(read_text(path, kind, label), kind, label or _label(path))


def read_object(path: Path, kind: FileKind, label: str = "") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UsageError: as `read_json`, or another kind of value.
    """
    return object_of(read_bytes(path, kind, label), kind, label or _label(path))


def object_of(raw: bytes, kind: FileKind, label: str) -> dict[str, Any]:
    """The JSON object in bytes that were part of a file.

    Raises:
        UsageError: as `read_object`.
    """
    value = parse_json(_decoded(raw, kind, label), kind, label)
    if not isinstance(value, dict):
        raise UsageError(f"{label} holds {_JSON_KINDS[type(value)]}; expected an object", kind.hint)
    return value


def parse_json(text: str, kind: FileKind, label: str) -> Any:
    """JSON in hand, held to the same rules as in a file.

    Raises:
        UsageError: not JSON, nested too deeply, too much of it, a key given twice, or a number that nothing can be
            counted with.
    """
    if sum(map(text.count, "{[:,")) > _MAX_MARKS:
        raise UsageError(f"{label} holds too many values for {kind.what}", kind.hint)
    odd = _ODD_NUMBER.search(text) is not None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer if odd else None,
            parse_float=_finite if odd else None,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{label} is not valid JSON: {where}: {error.msg}", kind.hint) from None
    except _NotUsableError as error:
        raise UsageError(f"{label} {error}", kind.hint) from None
    except RecursionError:
        deep = True
    else:
        deep = _deeper_than(value, _MAX_DEPTH)
    if deep:
        raise UsageError(f"{label} is nested too deeply", kind.hint)
    return value


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in each other more than so many levels."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for holder in layer
            if isinstance(holder, (dict, list))
            for inner in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True


class _NotUsableError(Exception):
    """JSON that says nothing that can be counted with."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _NotUsableError(f"gives the key '{shown(twice)}' twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _NotUsableError(f"holds a whole number of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotUsableError(f"holds the number {text[:20]}, which is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _NotUsableError(f"holds {name}, which is no number in JSON")


def _label(path: Path) -> str:
    return "standard input" if str(path) == STDIN else shown(path)


def _stdin(kind: FileKind) -> bytes:
    if sys.stdin is None:
        raise UsageError("standard input is closed", kind.hint)
    return sys.stdin.buffer.read(kind.max_bytes + 1)


def _special(mode: int) -> str:
    for test, what in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return what
    return "a device"
