"""Safetensors headers: what a checkpoint really holds, read without its weights.

The format is 8 bytes of length, that much JSON, then the tensors end to end
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from planner.errors import UsageError
from planner.model.dtypes import DType

INDEX_NAME: Final = "model.safetensors.index.json"
MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own bound (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs). An index repeats the same names."""
_WITHOUT_WEIGHTS: Final = "Download the weights again, or give the config.json itself to plan without them"
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
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            start = file.read(_LENGTH.size)
            if start == _LFS_POINTER:
                raise UsageError(
                    f"{path} is a Git LFS pointer and not the weights", f"git lfs pull fetches them. {_WITHOUT_WEIGHTS}"
                )
            if len(start) < _LENGTH.size:
                raise _truncated(path, file_bytes, "its header")
            (header_bytes,) = _LENGTH.unpack(start)
            if header_bytes > MAX_HEADER_BYTES:
                raise UsageError(f"{path} is not a safetensors file: it claims a header of {header_bytes} bytes")
            header = file.read(header_bytes)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if len(header) < header_bytes:
        raise _truncated(path, file_bytes, "its header")
    tensors, data_bytes = _parse(_json_object(header, f"the header of {path}"), str(path))
    whole_bytes = _LENGTH.size + header_bytes + data_bytes
    if file_bytes < whole_bytes:
        raise _truncated(path, file_bytes, f"all its tensors ({whole_bytes} bytes)")
    if file_bytes > whole_bytes:
        raise UsageError(f"{path} has {file_bytes - whole_bytes} bytes more than its header accounts for")
    return tensors


def _truncated(path: Path, file_bytes: int, what: str) -> UsageError:
    return UsageError(f"{path} is truncated: {file_bytes} bytes do not hold {what}", _WITHOUT_WEIGHTS)


def _json_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    # ValueError: no JSON, no UTF-8, or an integer past Python's limit of digits.
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not valid JSON") from None
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a JSON object")
    return value


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
        _refuse(where, name, f"has dtype {str(dtype_name)[:20]!r}, which lmplan does not know")
    # 2**48: no side of a real tensor comes near, and a product of a few stays a number that prints.
    if type(shape) is not list or len(shape) > 16 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        _refuse(where, name, "has a shape that is not a list of sizes")
    return HeaderTensor(name, tuple(shape), dtype)


def _refuse(where: str, name: str, problem: str) -> NoReturn:
    raise UsageError(f"{where}: tensor {name[:120]!r} {problem}")


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
    if index.is_file():
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
                raise UsageError(f"{path} lacks {_some(missing)}, which {INDEX_NAME} expects there")
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise UsageError(f"{path} holds {_some(twice)}, which another file of {folder} holds as well")
        tensors.update(found)
    return checkpoint_of(tensors, str(folder))


def _indexed_shards(index: Path) -> dict[Path, set[str] | None]:
    """The files that an index names, each with the tensors it should hold."""
    try:
        if index.stat().st_size > MAX_HEADER_BYTES:
            raise UsageError(f"{index} is larger than {MAX_HEADER_BYTES} bytes")
        text = index.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {index}: {error.strerror or error}") from None
    weight_map = _json_object(text, str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index} has no weight_map")
    shards: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        if type(file_name) is not str or Path(file_name).name != file_name:
            raise UsageError(f"{index} puts tensor {name[:120]!r} in {str(file_name)[:60]!r}, which is not a file name")
        shards.setdefault(file_name, set()).add(name)
    missing = sorted(name for name in shards if not (index.parent / name).is_file())
    if missing:
        raise UsageError(
            f"{index.parent} lacks {_some(missing)}, which {INDEX_NAME} names",
            _WITHOUT_WEIGHTS,
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
                raise UsageError(f"{path.parent} lacks {_some(missing)}", _WITHOUT_WEIGHTS)


def _some(names: list[str]) -> str:
    """``a`` or ``a and 3 more``."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
