"""A checkpoint beside the inventory that its config leads to: what differs, and the inventory as it is stored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from planner.files.escape import shown
from planner.model.checkpoint import Checkpoint, HeaderTensor
from planner.model.dtypes import DType
from planner.model.tensors import Role, TensorGroup
from planner.units import counted, format_bytes

_MAX_DIFFERENCES: Final = 12


@dataclass(slots=True)
class _Members:
    """The tensors of one group: those that the file holds, by (layer, expert), and how many it lacks."""

    group: TensorGroup
    stored: dict[tuple[int | None, int | None], HeaderTensor]
    missing: list[str]


def _match(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> tuple[list[_Members], list[HeaderTensor]]:
    """Every expected group with its tensors of the file, and the tensors that belong to none."""
    tensors = checkpoint.tensors
    unknown = dict(tensors)
    matched: list[_Members] = []
    for group in expected:
        members = _Members(group, {}, [])
        experts: tuple[int | None, ...] = tuple(range(group.num_experts)) or (None,)
        for layer in group.layers or (None,):
            in_layer = group.name if layer is None else group.name.replace("{layer}", str(layer))
            for expert in experts:
                name = in_layer if expert is None else in_layer.replace("{expert}", str(expert))
                tensor = unknown.pop(name, None)
                if tensor is None:
                    members.missing.append(name)
                else:
                    members.stored[layer, expert] = tensor
        matched.append(members)
    return matched, list(unknown.values())


def belongs(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds any of the tensors that its config leads to."""
    return any(tensor.name in checkpoint.tensors for group in expected for tensor in group.expand())


def compare(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> list[str]:
    """What a checkpoint holds differently from what its config leads to, in at most a dozen lines.

    `expected` is the inventory as stored (`planner.model.formats.store`). An empty list: not a tensor differs.
    """
    matched, unknown = _match(expected, checkpoint)
    lines: list[str] = []
    for members in matched:
        lines += _group_differences(members)
    lines += _unknown_tensors(expected, unknown)
    if not lines:
        return []
    if len(lines) > _MAX_DIFFERENCES:
        lines[_MAX_DIFFERENCES:] = [f"and {counted(len(lines) - _MAX_DIFFERENCES, 'other kind')} of tensor"]
    expected_bytes = sum(group.size_bytes for group in expected)
    if expected_bytes != checkpoint.total_bytes:
        change = checkpoint.total_bytes - expected_bytes
        lines.append(
            f"together {checkpoint.total_bytes} bytes stored, {expected_bytes} by config.json "
            f"({'+' if change > 0 else '-'}{format_bytes(abs(change))})"
        )
    return lines


def _group_differences(members: _Members) -> Iterator[str]:
    group = members.group
    name = group.name.replace("{layer}", "*").replace("{expert}", "*")

    def of_all(number: int) -> str:
        return "" if group.num_tensors == 1 else f" ({number} of {group.num_tensors} tensors)"

    if members.missing:
        yield f"{name}: missing{of_all(len(members.missing))}"
    odd: Counter[tuple[tuple[int, ...], DType]] = Counter()
    for tensor in members.stored.values():
        if tensor.shape != group.shape or tensor.dtype is not group.dtype:
            odd[tensor.shape, tensor.dtype] += 1
    for (shape, dtype), number in odd.most_common(2):
        yield (
            f"{name}: stored as {_shape(shape)} {dtype.value}, "
            f"by config.json {_shape(group.shape)} {group.dtype.value}{of_all(number)}"
        )


def _unknown_tensors(expected: tuple[TensorGroup, ...], unknown: list[HeaderTensor]) -> Iterator[str]:
    table = next((group for group in expected if group.role is Role.EMBEDDING), None)
    tied = table is not None and not any(group.role is Role.LM_HEAD for group in expected)
    kinds: dict[str, list[HeaderTensor]] = {}
    for tensor in unknown:
        kinds.setdefault(shown(re.sub(r"\d+", "*", tensor.name)), []).append(tensor)
    for kind, tensors in kinds.items():
        size = format_bytes(sum(tensor.size_bytes for tensor in tensors))
        if tied and table and len(tensors) == 1 and tensors[0].shape == table.shape:
            yield f"{kind}: stored as well ({size}), though tie_word_embeddings makes it the embedding"
            continue
        number = "" if len(tensors) == 1 else f"{len(tensors)} tensors, "
        yield f"{kind}: stored, but not expected from config.json ({number}{size})"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def adopt(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> tuple[TensorGroup, ...]:
    """The inventory as the checkpoint stores it: shapes and dtypes from the file, roles from `expected`.

    Tensors that `expected` does not know get Role.OTHER. The groups' bytes add up to `checkpoint.total_bytes`.
    """
    matched, unknown = _match(expected, checkpoint)
    groups: list[TensorGroup] = []
    for members in matched:
        groups += _adopted(members)
    groups += (TensorGroup(tensor.name, tensor.shape, tensor.dtype, Role.OTHER) for tensor in unknown)
    return tuple(groups)


def _adopted(members: _Members) -> Iterator[TensorGroup]:
    group = members.group
    kinds: dict[tuple[tuple[int, ...], DType], list[tuple[int | None, int | None]]] = {}
    for where, tensor in members.stored.items():
        kinds.setdefault((tensor.shape, tensor.dtype), []).append(where)
    for (shape, dtype), places in kinds.items():
        alike = group._replace(shape=shape, dtype=dtype)
        # A group spells out whole layers; layers of which only some experts are of this kind go one by one.
        by_layer: dict[int | None, list[int | None]] = {}
        for layer, expert in places:
            by_layer.setdefault(layer, []).append(expert)
        whole = max(group.num_experts, 1)
        layers = tuple(layer for layer, experts in by_layer.items() if len(experts) == whole)
        if layers == (None,):
            yield alike
        elif layers:
            yield alike._replace(layers=tuple(layer for layer in layers if layer is not None))
        for layer, experts in by_layer.items():
            if len(experts) < whole:
                for expert in experts:
                    name = group.name.replace("{expert}", str(expert))
                    yield alike._replace(name=name, layers=() if layer is None else (layer,), num_experts=0)
