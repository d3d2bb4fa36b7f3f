"""Reading pytorch_model*.bin, which LMDeploy wrote before 0.9, without torch and without running what is in it.

A file is a zip archive (`torch/serialization.py`, `_save`): ``data.pkl`` describes the tensors, and each storage is an
uncompressed member ``data/<key>``. The pickle is read into descriptions and nothing else (`state_pickle`).
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from planner.errors import UsageError
from planner.files.escape import shown
from planner.files.reading import TENSOR_LIST, WEIGHTS, is_file, open_regular
from planner.model.checkpoint import Checkpoint, HeaderTensor, checkpoint_of, weight_map
from planner.model.dtypes import DType
from quantize.checkpoint.state_pickle import read_state

INDEX_NAME: Final = "pytorch_model.bin.index.json"
_MAX_DIMENSIONS: Final = 16
_STORAGES: Final = {
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "FloatStorage": DType.F32,
    "DoubleStorage": DType.F64,
    "IntStorage": DType.I32,
    "LongStorage": DType.I64,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: DType
    num_elements: int


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    storage: _Storage
    offset_elements: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def is_contiguous(self) -> bool:
        expected = 1
        for side, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if side != 1 and step != expected:
                return False
            expected *= side
        return True


def bin_files(folder: Path) -> list[Path]:
    """The files of a checkpoint in this form: those of its index, or all; empty where there are none."""
    index = folder / INDEX_NAME
    if is_file(index):
        return sorted({folder / name for name in weight_map(index).values()})
    return sorted(folder.glob("pytorch_model*.bin"))


def read_bin_folder(folder: Path) -> Checkpoint | None:
    """The tensors of a folder's .bin files, or None where it has none.

    Raises:
        UsageError: a file is missing, broken, of the form before torch 1.6, or names a tensor twice.
    """
    files = bin_files(folder)
    if not files:
        return None
    tensors: dict[str, HeaderTensor] = {}
    for path in files:
        for name, tensor in _describe(path).items():
            if name in tensors:
                raise UsageError(f"{shown(path)} holds {shown(name)}, which another file holds as well")
            tensors[name] = HeaderTensor(name, tensor.shape, tensor.storage.dtype)
    return checkpoint_of(tensors, str(folder))


def read_tensors(path: Path, suffix: str) -> Iterator[tuple[str, DType, bytes]]:
    """Name, type and bytes of the tensors whose name ends in `suffix`, in storage order.

    Raises:
        UsageError: the file is broken, or such a tensor is not laid out in order.
    """
    described = _describe(path)
    with _opened(path) as archive:
        root = _root(archive, path)
        for name, tensor in described.items():
            if not name.endswith(suffix):
                continue
            if not tensor.is_contiguous():
                raise UsageError(f"{shown(path)}: {shown(name)} is not stored in order")
            width = tensor.storage.dtype.bits // 8
            data = _member(archive, f"{root}/data/{tensor.storage.key}", path)
            start = tensor.offset_elements * width
            yield name, tensor.storage.dtype, data[start : start + math.prod(tensor.shape) * width]


def _describe(path: Path) -> dict[str, _StoredTensor]:
    with _opened(path) as archive:
        root = _root(archive, path)
        text = _member(archive, f"{root}/data.pkl", path)
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    try:
        value = read_state(text, _NAMED, tuple(_FUNCTIONS.values()), _storage)
    except UsageError as error:
        raise UsageError(f"{shown(path)}: {error.message}", error.hint) from None
    except Exception as error:  # a broken pickle fails in as many ways as Python has exceptions
        raise UsageError(f"{shown(path)}: its list of tensors cannot be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{shown(path)} holds no dictionary of tensors")
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, _StoredTensor)}
    for name, tensor in tensors.items():
        width = tensor.storage.dtype.bits // 8
        end = (tensor.offset_elements + math.prod(tensor.shape)) * width
        if sizes.get(f"{root}/data/{tensor.storage.key}", -1) < end:
            raise UsageError(f"{shown(path)} is truncated: {shown(name)} is not all there")
    return tensors


class _Archive(zipfile.ZipFile):
    """An archive whose directory is not read where it is larger than any checkpoint's."""

    def __init__(self, path: Path) -> None:
        self.raw = _Bounded(open_regular(path, WEIGHTS))
        try:
            super().__init__(self.raw)
        except BaseException:
            self.raw.close()
            raise
        # A member that says to be larger would get its memory before it is seen to be short.
        self.raw.max_bytes = os.fstat(self.raw.fileno()).st_size

    def close(self) -> None:
        """Close the file as well, which zipfile leaves open where it did not open it."""
        super().close()
        self.raw.close()


class _Bounded(io.BufferedReader):
    """Bytes of which no more than so many are read at once."""

    max_bytes = TENSOR_LIST.max_bytes

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(cast(io.BufferedReader, file).detach())

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.max_bytes:
            raise zipfile.BadZipFile(f"{size} bytes are more than there can be")
        return super().read(size)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return _Archive(path)
    except OSError as error:
        raise UsageError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        raise UsageError(f"{shown(path)} is truncated, or not a checkpoint of torch 1.6 or later") from None


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.partition("/")[0]
    raise UsageError(f"{shown(path)} has no data.pkl: not a checkpoint of torch")


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        info = archive.getinfo(name)
        # Storages are never compressed, so a member cannot be larger than the file.
        if info.compress_type != zipfile.ZIP_STORED:
            raise UsageError(f"{shown(path)}: {shown(name)} is not stored as torch stores it")
        if name.endswith(".pkl") and info.file_size > TENSOR_LIST.max_bytes:
            raise UsageError(
                f"{shown(path)}: {shown(name)} has {info.file_size} bytes, too many for {TENSOR_LIST.what}"
            )
        return archive.read(info)
    except KeyError:
        raise UsageError(f"{shown(path)} lacks {shown(name)}") from None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{shown(path)} is broken at {shown(name)}: {shown(str(error))}") from None


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *others: Any
) -> _StoredTensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise UsageError("its list of tensors holds a tensor of no shape")
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise UsageError("its list of tensors holds a tensor of no shape")
    return _StoredTensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: _StoredTensor, *others: Any) -> _StoredTensor:
    return data


def _dictionary() -> dict[str, Any]:
    return {}


def _storage(kind: Any, dtype: Any, key: Any, _location: Any, num_elements: Any) -> _Storage:
    """What a persistent id stands for."""
    texts = isinstance(kind, str) and isinstance(key, str)
    if not texts or kind != "storage" or not isinstance(dtype, DType) or type(num_elements) is not int:
        raise UsageError("its list of tensors refers to something that is no storage")
    return _Storage(key, dtype, num_elements)


_FUNCTIONS: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): _dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
_NAMED: Final[dict[tuple[str, str], Any]] = {
    **_FUNCTIONS,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}
