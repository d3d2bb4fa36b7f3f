"""The tensors of a checkpoint by name, each read when it is asked for: safetensors, or what torch saved."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

_THREADS = 8
"""That copy weights to the GPU: one alone takes 3 GB/s from the file cache to an H200."""
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Tensors:
    """A folder's tensors, put on `device` as they are stored.

    Raises:
        FileNotFoundError: there are no weights.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._files: dict[str, Any] = {}
        self._loaded: dict[str, torch.Tensor] = {}
        paths = _files(folder)
        self.file_bytes = sum(path.stat().st_size for path in paths)
        """Of the files."""
        for path in paths:
            if path.suffix == ".safetensors":
                file: Any = safe_open(path, framework="pt", device=device)
                names: Iterable[str] = file.keys()
            else:
                file = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                names = file
            self._files |= dict.fromkeys(names, file)
        if not self._files:
            raise FileNotFoundError(f"there are no weights in {folder}")

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> torch.Tensor:
        """One tensor, in storage order.

        Raises:
            KeyError: there is none of that name.
        """
        if name in self._loaded:
            return self._loaded[name]
        file = self._files[name]
        return file[name].to(self._device) if isinstance(file, dict) else file.get_tensor(name)

    def load(self) -> None:
        """Put all of them on the device now and keep them there, instead of one whenever it is asked for."""
        with ThreadPoolExecutor(_THREADS) as pool:
            self._loaded = dict(zip(self._files, pool.map(self.get, self._files), strict=True))


def _files(folder: Path) -> list[Path]:
    """The files that count: those of an index, else model*.safetensors, else what there is."""
    for name in _INDEXES:
        if (folder / name).is_file():
            files = json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()
            return sorted({folder / file for file in files})
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []
