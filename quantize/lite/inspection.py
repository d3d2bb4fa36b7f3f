"""Checking a finished checkpoint: config, every tensor against the inventory, the scales' values, the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import LmplanError, UsageError
from planner.files.escape import shown
from planner.files.reading import is_file, is_folder
from planner.model import formats
from planner.model.arch import read_spec
from planner.model.arch.quantization import read_quantization
from planner.model.checkpoint import INDEX_NAME, Checkpoint, checkpoint_of, header_object, read_folder, weight_map
from planner.model.dtypes import DType
from planner.model.fields import Fields
from planner.model.inventory import inventory
from planner.model.quantization import Quantization
from planner.model.reconcile import compare
from planner.model.source import read_config
from planner.model.tensors import TensorGroup, size_bytes
from quantize.checkpoint.torch_files import bin_files, read_bin_folder, read_tensors
from quantize.checkpoint.values import look_at, mapped
from quantize.lite.method import Method
from quantize.lite.methods import METHODS, find_method

STATISTICS: Final = ("inputs_stats.pth", "outputs_stats.pth")
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken")
"""One of these holds the vocabulary: fast tokenizers, SentencePiece, BPE in two files, Qwen's first generation."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        problems: what makes the checkpoint unusable; empty when it passed.
        notes: what is unusual and does no harm.
        num_tensors, tensor_bytes: what the files hold.
        file_bytes: size of the files, headers included.
        expected_bytes: what the inventory says that the tensors take.
        num_scales: scale tensors whose values were looked at.
        quantization: what config.json says, where it could be read.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    num_tensors: int = 0
    tensor_bytes: int = 0
    file_bytes: int = 0
    expected_bytes: int = 0
    num_scales: int = 0
    quantization: Quantization | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def inspect_folder(folder: Path, expected: tuple[TensorGroup, ...] | None = None) -> Inspection:
    """Check the quantized checkpoint in `folder`.

    Args:
        folder: with config.json, safetensors and a tokenizer.
        expected: the tensors it has to hold as stored; by default what its own config.json leads to.

    Raises:
        UsageError: no such folder, or it has no config.json.
        UnsupportedModelError: a model that lmplan does not know.
    """
    if not is_folder(folder):
        raise UsageError(f"there is no folder {shown(folder)}", "Give the folder of a checkpoint, with its config.json")
    config = read_config(folder / "config.json")
    quantization = read_quantization(Fields(config))
    method = None if quantization is None else find_method(quantization.method)
    problems = list(_config_problems(config, quantization, method))
    if not any(is_file(folder / name) for name in _TOKENIZERS):
        problems.append(f"there is no tokenizer: none of {', '.join(_TOKENIZERS)}")
    if quantization is None or method is None:
        return Inspection(tuple(problems), (), quantization=quantization)
    groups = expected
    if groups is None:
        groups = formats.store(inventory(read_spec(config, folder.name)), quantization)
    try:
        checkpoint = read_folder(folder) or read_bin_folder(folder)
        if checkpoint is None:
            return Inspection((*problems, "there are no weights"), (), quantization=quantization)
        scale_problems, num_scales = _scale_problems(folder, method.scales_suffix)
    except UsageError as error:
        return Inspection((*problems, error.message), (), quantization=quantization)
    wrong, notes = _compare(groups, checkpoint)
    return Inspection(
        problems=(*problems, *wrong, *scale_problems),
        notes=tuple(notes),
        num_tensors=len(checkpoint.tensors),
        tensor_bytes=checkpoint.total_bytes,
        file_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        expected_bytes=size_bytes(groups),
        num_scales=num_scales,
        quantization=quantization,
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that count: those of the index, else all safetensors files, else pytorch_model*.bin."""
    index = folder / INDEX_NAME
    if is_file(index):
        return sorted({folder / name for name in weight_map(index).values()})
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    return files or bin_files(folder)


def _config_problems(config: dict[str, Any], quantization: Quantization | None, method: Method | None) -> Iterator[str]:
    if quantization is None:
        yield "config.json has no quantization_config: this is not a quantized checkpoint"
    elif method is None:
        known = ", ".join(method.checkpoint_method.value for method in METHODS.values())
        yield f"config.json says {quantization.method}; expected {known}"
    else:
        yield from method.config_problems(config)


def _compare(groups: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """What is missing or of another shape, and what is there besides."""
    names = {tensor.name for group in groups for tensor in group.expand()}
    known = {name: tensor for name, tensor in checkpoint.tensors.items() if name in names}
    problems = compare(groups, checkpoint_of(known, checkpoint.source))
    others = sorted(checkpoint.tensors.keys() - names)
    notes = [f"holds {len(others)} more tensors, such as {shown(others[0])}"] if others else []
    return problems, notes


def _scale_problems(folder: Path, suffix: str) -> tuple[list[str], int]:
    problems: list[str] = []
    number = 0
    for path in weight_files(folder):
        for name, dtype, words in _scales(path, suffix):
            number += 1
            if dtype not in (DType.F16, DType.BF16):
                continue  # the comparison of dtypes has reported it
            problem = look_at(words, dtype).problem
            if problem and len(problems) < 12:
                problems.append(f"{shown(name)}: {problem}")
    if not number:
        problems.append("there are no scales: no linear is quantized")
    return problems, number


def _scales(path: Path, suffix: str) -> Iterator[tuple[str, DType, bytes | memoryview]]:
    """Name, dtype and bytes of the scales in a file whose header was checked before."""
    if path.suffix == ".bin":
        yield from read_tensors(path, suffix)
        return
    header, start = header_object(path)
    with mapped(path) as data:
        for name, entry in header.items():
            if name.endswith(suffix):
                begin, end = entry["data_offsets"]
                with data[start + begin : start + end] as words:
                    yield name, DType(entry["dtype"]), words


def inspect_or_explain(folder: Path, expected: tuple[TensorGroup, ...]) -> Inspection:
    """`inspect_folder`, with what it would raise as a problem: for results that a run made."""
    try:
        return inspect_folder(folder, expected)
    except LmplanError as error:
        return Inspection((error.message,), ())
