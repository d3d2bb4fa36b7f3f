"""Safetensors headers: what a checkpoint really holds, read without its weights.

The format is 8 bytes of length, that much JSON, then the tensors end to end
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from planner.errors import UsageError
from planner.files import reading
from planner.files.escape import shown
from planner.model.dtypes import DType

INDEX_NAME: Final = "model.safetensors.index.json"
_MAX_NAME_BYTES: Final = 255
"""What Linux takes for a file's name."""
_LENGTH: Final = struct.Struct("<Q")
_LFS_POINTER: Final = b"version "
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
_DTYPES: Final = {dtype.value: dtype for dtype in DType}


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """One tensor as a file declares it; `shape` is in storage order."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.dtype.size_bytes(math.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All tensors of a model by name, where they were read, and their bytes without the headers."""

    tensors: dict[str, HeaderTensor]
    source: str
    total_bytes: int


def checkpoint_of(tensors: dict[str, HeaderTensor], source: str) -> Checkpoint:
    """A Checkpoint of `tensors` with its total."""
    return Checkpoint(tensors, source, sum(tensor.size_bytes for tensor in tensors.values()))


def read_header(path: Path) -> tuple[HeaderTensor, ...]:
    """The tensors that one safetensors file declares.

    Raises:
        UsageError: unreadable, not safetensors, truncated, or of a dtype that lmplan does not know.
    """
    header, data_start = header_object(path)
    tensors, data_bytes = _parse(header, shown(path))
    file_bytes, whole_bytes = path.stat().st_size, data_start + data_bytes
    if file_bytes < whole_bytes:
        raise _truncated(path, file_bytes, f"all its tensors ({whole_bytes} bytes)")
    if file_bytes > whole_bytes:
        raise UsageError(f"{shown(path)} has {file_bytes - whole_bytes} bytes more than its header accounts for")
    return tensors


def header_object(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON object of a safetensors header, not yet looked into, and where the tensors' bytes begin.

    Nothing is read of a header that is longer than any good one.

    Raises:
        UsageError: unreadable, or not safetensors.
    """
    with reading.open_regular(path, reading.WEIGHTS) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            start = file.read(_LENGTH.size)
            if start == _LFS_POINTER:
                hint = f"git lfs pull fetches them. {reading.HEADER.hint}"
                raise UsageError(f"{shown(path)} is a Git LFS pointer and not the weights", hint)
            if len(start) < _LENGTH.size:
                raise _truncated(path, file_bytes, "its header")
            (header_bytes,) = _LENGTH.unpack(start)
            if header_bytes > reading.HEADER.max_bytes:
                raise UsageError(
                    f"{shown(path)} claims a header of {header_bytes} bytes; "
                    f"{reading.HEADER.what} has at most {reading.HEADER.max_bytes}",
                    reading.HEADER.hint,
                )
            text = file.read(header_bytes)
        except OSError as error:
            raise UsageError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    if len(text) < header_bytes:
        raise _truncated(path, file_bytes, "its header")
    where = f"the header of {shown(path)}"
    return reading.object_of(text, reading.HEADER, where), _LENGTH.size + int(header_bytes)


def _truncated(path: Path, file_bytes: int, what: str) -> UsageError:
    return UsageError(f"{shown(path)} is truncated: {file_bytes} bytes do not hold {what}", reading.HEADER.hint)


def _parse(header: Mapping[str, Any], where: str) -> tuple[tuple[HeaderTensor, ...], int]:
    """The tensors of a header and the bytes that they take after it."""
    tensors: list[HeaderTensor] = []
    end_bytes = total_bytes = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype_name, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            _refuse(where, name, "lacks dtype, shape or data_offsets")
        tensor = declared(name, dtype_name, shape, where)
        size_bytes = tensor.size_bytes
        if type(start) is not int or type(end) is not int or start < 0 or end - start != size_bytes:
            _refuse(where, name, f"has data_offsets that do not span its {size_bytes} bytes")
        tensors.append(tensor)
        total_bytes += size_bytes
        end_bytes = max(end_bytes, end)
    # The format allows neither holes nor overlaps, so the last byte is the sum.
    if end_bytes != total_bytes:
        raise UsageError(f"{where}: the tensors take {total_bytes} bytes but end at byte {end_bytes}")
    return tuple(tensors), total_bytes


def declared(name: str, dtype_name: object, shape: object, where: str) -> HeaderTensor:
    """The tensor that a header entry declares.

    Raises:
        UsageError: a dtype that lmplan does not know, or a shape that is none.
    """
    dtype = _DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        _refuse(where, name, f"has dtype '{shown(str(dtype_name)[:20])}', which lmplan does not know")
    # 2**48: no side of a real tensor comes near, and a product of a few stays a number that prints.
    if type(shape) is not list or len(shape) > 16 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        _refuse(where, name, "has a shape that is not a list of sizes")
    return HeaderTensor(name, tuple(shape), dtype)


def _refuse(where: str, name: str, problem: str) -> NoReturn:
    raise UsageError(f"{where}: tensor '{shown(name)}' {problem}")


def read_folder(folder: Path) -> Checkpoint | None:
    """The tensors of a folder's safetensors files, or None where it has none.

    Where there is ``model.safetensors.index.json``, it says which files count.

    Raises:
        UsageError: a shard is missing or broken, or two files hold a tensor of the same name.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    index = folder / INDEX_NAME
    if reading.is_file(index):
        shards = _indexed_shards(index)
    else:
        # Some repositories keep a second copy in another naming beside model*.safetensors (Mistral's consolidated).
        files = [path for path in files if path.name.startswith("model")] or files
        _check_numbering(files)
        shards = dict.fromkeys(files)
    tensors: dict[str, HeaderTensor] = {}
    for path, names in shards.items():
        found = {tensor.name: tensor for tensor in read_header(path)}
        if names is not None:
            missing = sorted(names - found.keys())
            if missing:
                raise UsageError(f"{shown(path)} lacks {_some(missing)}, which {INDEX_NAME} expects there")
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise UsageError(f"{shown(path)} holds {_some(twice)}, which another file of {shown(folder)} holds as well")
        tensors.update(found)
    return checkpoint_of(tensors, str(folder))


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file as an index of weights has it; the files lie beside it.

    Raises:
        UsageError: unreadable, or no such index.
    """
    found = reading.read_object(index, reading.INDEX).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{shown(index)} has no weight_map", reading.INDEX.hint)
    for name, file_name in found.items():
        if not isinstance(file_name, str) or not _is_plain(file_name):
            what = shown(str(file_name)[:60])
            raise UsageError(f"{shown(index)} puts tensor '{shown(name)}' in '{what}', which is not a file name")
    return found


def _is_plain(name: str) -> bool:
    """Whether it names a file of the same folder."""
    return name.isprintable() and Path(name).name == name != ".." and 0 < len(name.encode()) <= _MAX_NAME_BYTES


def _indexed_shards(index: Path) -> dict[Path, set[str] | None]:
    """The files that an index names, each with the tensors it should hold."""
    shards: dict[str, set[str]] = {}
    for name, file_name in weight_map(index).items():
        shards.setdefault(file_name, set()).add(name)
    missing = sorted(name for name in shards if not (index.parent / name).exists())
    if missing:
        raise UsageError(
            f"{shown(index.parent)} lacks {_some(missing)}, which {INDEX_NAME} names",
            reading.HEADER.hint,
        )
    return {index.parent / name: names for name, names in sorted(shards.items())}


def _check_numbering(files: list[Path]) -> None:
    """Without an index, the names ``-00001-of-00004`` still say how many files there are."""
    there = {path.name for path in files}
    for path in files:
        match = _SHARD.fullmatch(path.name)
        if match:
            stem, total = match["stem"], int(match["total"])
            expected = (f"{stem}-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1))
            missing = [name for name in expected if name not in there]
            if missing:
                raise UsageError(f"{shown(path.parent)} lacks {_some(missing)}", reading.HEADER.hint)


def _some(names: list[str]) -> str:
    """``a`` or ``a and 3 more``."""
    first = shown(names[0])
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
