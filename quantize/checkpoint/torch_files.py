"""Reading pytorch_model*.bin, which LMDeploy wrote before 0.9, without torch and without running what is in it.

A file is a zip archive (`torch/serialization.py`, `_save`): ``data.pkl`` describes the tensors, and each storage is an
uncompressed member ``data/<key>``. The pickle is read by an unpickler that builds descriptions and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import UsageError
from planner.model.checkpoint import Checkpoint, HeaderTensor, checkpoint_of
from planner.model.dtypes import DType

INDEX_NAME: Final = "pytorch_model.bin.index.json"
_MAX_PICKLE_BYTES: Final = 100_000_000
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
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UsageError(f"{index} is not an index of weights") from None
        return sorted(folder / str(name) for name in names)
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
                raise UsageError(f"{path} holds {name[:120]}, which another file holds as well")
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
                raise UsageError(f"{path}: {name[:120]} is not stored in order")
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
        value = _Unpickler(io.BytesIO(text)).load()
    except UsageError:
        raise
    except Exception as error:  # a broken pickle fails in as many ways as Python has exceptions
        raise UsageError(f"{path}: its list of tensors cannot be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no dictionary of tensors")
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, _StoredTensor)}
    for name, tensor in tensors.items():
        width = tensor.storage.dtype.bits // 8
        end = (tensor.offset_elements + math.prod(tensor.shape)) * width
        if sizes.get(f"{root}/data/{tensor.storage.key}", -1) < end:
            raise UsageError(f"{path} is truncated: {name[:120]} is not all there")
    return tensors


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        raise UsageError(f"{path} is truncated, or not a checkpoint of torch 1.6 or later") from None


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.partition("/")[0]
    raise UsageError(f"{path} has no data.pkl: not a checkpoint of torch")


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        info = archive.getinfo(name)
        # Storages are never compressed, so a member cannot be larger than the file.
        if info.compress_type != zipfile.ZIP_STORED or (name.endswith(".pkl") and info.file_size > _MAX_PICKLE_BYTES):
            raise UsageError(f"{path}: {name} is not stored as torch stores it")
        return archive.read(info)
    except KeyError:
        raise UsageError(f"{path} lacks {name}") from None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f"{path} is broken at {name}: {error}") from None


class _Unpickler(pickle.Unpickler):
    """Knows what a state dictionary is made of and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise UsageError(f"a weights file asks for {module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, num_elements = pid
        if kind != "storage" or not isinstance(dtype, DType) or type(num_elements) is not int:
            raise UsageError("a weights file refers to something that is no storage")
        return _Storage(str(key), dtype, num_elements)


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *others: Any
) -> _StoredTensor:
    return _StoredTensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: _StoredTensor, *others: Any) -> _StoredTensor:
    return data
