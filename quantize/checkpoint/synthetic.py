"""Synthetic checkpoints, from a config alone: the right tensors without the right values.

A *sparse* one has no values: memory depends on shapes, so a file of holes, all zero, measures serving as well as the
real weights do, and takes no disk. A *drawn* one has random values, the same for the same seed: quantization needs
some, for zeros give NaN scales. Neither can be served for its answers, and a mark file beside the weights says so.
"""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from planner.errors import UsageError
from planner.model.dtypes import DType
from planner.model.source import SYNTHETIC_MARK
from planner.model.tensors import Role, Tensor, TensorGroup
from quantize.checkpoint.stand_ins import NUM_TOKENS, write_config, write_tokenizer

Fill = Literal["sparse", "drawn"]
MARK: Final = SYNTHETIC_MARK
WEIGHTS: Final = "model.safetensors"
_MARK_TEXT: Final = (
    "lmplan made these weights from the model's shapes ({fill}).\n"
    "They hold nothing that was learned: measure with them, never serve them.\n"
)
# A prime number of values, drawn once and laid end to end, so that rows of equal length never line up in the pool.
_POOL_VALUES: Final = 1_048_573
# Transformers initialise linears and embeddings with this deviation (`initializer_range`), and it keeps activations of
# a deep random model finite in fp16.
_DEVIATION: Final = 0.02
_CHUNK_BYTES: Final = 16 * 2**20
# The order of safetensors' own enumeration of types, backwards (`safetensors/src/tensor.rs`, Dtype and serialize).
_FILE_ORDER: Final = (
    DType.I64,
    DType.F64,
    DType.F32,
    DType.I32,
    DType.BF16,
    DType.F16,
    DType.I16,
    DType.F8_E4M3,
    DType.F8_E5M2,
    DType.I8,
    DType.U8,
    DType.BOOL,
)


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    groups: tuple[TensorGroup, ...],
    *,
    fill: Fill,
    seed: int = 0,
) -> Path:
    """Write a checkpoint that transformers and LMDeploy load: config, tokenizer, one safetensors file, a mark.

    Args:
        folder: made where it does not exist; files of these names in it are replaced.
        config: the parsed config.json. For a quantized inventory, pass it through
            `planner.model.rewrite.quantized_config` first.
        groups: the tensors as they are stored (`planner.model.formats.store`).
        fill: ``sparse`` leaves a hole for every value (all zero, no disk), ``drawn`` draws them at random.
        seed: of the random values.

    Returns:
        The safetensors file.

    Raises:
        UsageError: the vocabulary is smaller than the stand-in tokenizer's.
    """
    _check_vocabulary(groups)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the weights: a folder that was left half-written is marked too.
    (folder / MARK).write_text(_MARK_TEXT.format(fill=fill), encoding="utf-8")
    write_config(folder, config)
    write_tokenizer(folder, max_length_tokens=131072)
    path = folder / WEIGHTS
    header, data_bytes = safetensors_header(groups)
    with path.open("wb") as file:
        file.write(header)
        if fill == "drawn":
            pools = _Pools(seed)
            for tensor in in_file_order(groups):
                _write_random(file, tensor, pools)
        file.truncate(len(header) + data_bytes)
    return path


def in_file_order(groups: tuple[TensorGroup, ...]) -> list[Tensor]:
    """The tensors as the safetensors library orders them in a file: wider types first, then by name."""
    tensors = [tensor for group in groups for tensor in group.expand()]
    return sorted(tensors, key=lambda tensor: (_FILE_ORDER.index(tensor.dtype), tensor.name))


def safetensors_header(groups: tuple[TensorGroup, ...]) -> tuple[bytes, int]:
    """The leading bytes (length and padded JSON), as transformers writes them, and the bytes of data after them."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in in_file_order(groups):
        start, end = end, end + tensor.size_bytes
        entries[tensor.name] = {"dtype": tensor.dtype.value, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def is_synthetic(folder: Path) -> bool:
    """Whether lmplan made the checkpoint, sparse or drawn."""
    return (folder / MARK).exists()


def _check_vocabulary(groups: tuple[TensorGroup, ...]) -> None:
    for group in groups:
        if group.role is Role.EMBEDDING and group.shape[0] < NUM_TOKENS:
            raise UsageError(
                f"a synthetic model needs a vocabulary of at least {NUM_TOKENS} tokens, not {group.shape[0]}"
            )


class _Pools:
    """Random values to lay out, one pool for each dtype and kind, drawn when first asked for."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._values: dict[tuple[DType, str], bytes] = {}

    def get(self, dtype: DType, kind: str) -> bytes:
        """Little-endian values of `kind`: ``weight`` around 0, ``norm`` around 1, ``scale`` small and positive."""
        key = (dtype, kind)
        if key not in self._values:
            self._values[key] = self._draw(dtype, kind)
        return self._values[key]

    def _draw(self, dtype: DType, kind: str) -> bytes:
        if dtype not in (DType.F32, DType.F16, DType.BF16):
            return self.random.randbytes(_POOL_VALUES * dtype.bits // 8)
        gauss = self.random.gauss
        mean, deviation = {"weight": (0.0, _DEVIATION), "norm": (1.0, _DEVIATION), "scale": (0.005, 0.0005)}[kind]
        values = array("f", (gauss(mean, deviation) for _ in range(_POOL_VALUES)))
        if dtype is DType.F32:
            return values.tobytes()
        if dtype is DType.F16:
            return struct.pack(f"<{_POOL_VALUES}e", *values)
        # bfloat16 is the upper half of a float32; truncation is rounding enough for drawn values.
        return array("H", values.tobytes())[1::2].tobytes()


def _kind(tensor: Tensor) -> str:
    if tensor.name.endswith(".scales"):
        return "scale"
    is_norm_weight = tensor.role is Role.NORM or "norm" in tensor.name.rpartition(".")[0]
    return "norm" if is_norm_weight and not tensor.name.endswith(".bias") else "weight"


def _write_random(file: BinaryIO, tensor: Tensor, pools: _Pools) -> None:
    width = tensor.dtype.bits // 8
    pool = pools.get(tensor.dtype, _kind(tensor))
    start = pools.random.randrange(_POOL_VALUES) * width
    for chunk in _cycle(pool, start, tensor.size_bytes):
        file.write(chunk)


def _cycle(pool: bytes, start: int, size_bytes: int) -> Iterator[bytes | memoryview]:
    """`size_bytes` of the endless repetition of `pool`, from `start` on."""
    head = memoryview(pool)[start : start + size_bytes]
    yield head
    left = size_bytes - len(head)
    block = memoryview(pool * max(1, min(_CHUNK_BYTES, left) // len(pool)))
    while left > 0:
        yield block[:left]
        left -= min(left, len(block))
