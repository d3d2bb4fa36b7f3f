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


_LAYER, _EXPERT = "{layer}", "{expert}"
_NUMBER: Final = re.compile(r"(?<![^.])(?:[0-9]+|\{layer\}|\{expert\})(?![^.])")
"""A whole word of a name that is a number, or stands for one."""
_Place = tuple[int, int]
"""Layer and expert; _NOWHERE for none."""
_NOWHERE: Final = -1


@dataclass(slots=True)
class _Members:
    """The tensors of one group: those that the file holds, by their place, and how many it lacks."""

    group: TensorGroup
    stored: dict[_Place, HeaderTensor]

    @property
    def num_missing(self) -> int:
        return self.group.num_tensors - len(self.stored)


@dataclass(frozen=True, slots=True)
class _Template:
    """Groups whose names have the same numbers in the same places.

    Attributes:
        numbers: of the name, ``{layer}`` and ``{expert}`` among them.
        experts: by number as written; of none ``{"": _NOWHERE}``.
        layers: the group of each layer, by number as written.
    """

    numbers: list[str]
    experts: dict[str, int]
    layers: dict[str, tuple[int, _Members]]

    def find(self, numbers: list[str]) -> tuple[_Members, _Place] | None:
        """The group whose name has these numbers, and the place there."""
        layer = expert = ""
        for expected, number in zip(self.numbers, numbers, strict=True):
            if expected == _LAYER:
                layer = number
            elif expected == _EXPERT:
                expert = number
            elif expected != number:
                return None
        at, found = self.experts.get(expert), self.layers.get(layer)
        return None if at is None or found is None else (found[1], (found[0], at))


class _Groups:
    """Expected groups by the names of their tensors, which are looked up: a config may lead to millions of names."""

    def __init__(self, expected: tuple[TensorGroup, ...]) -> None:
        self.members = [_Members(group, {}) for group in expected]
        self._forms: dict[str, list[_Template]] = {}
        for members in self.members:
            layers = {str(layer): (layer, members) for layer in members.group.layers} or {"": (_NOWHERE, members)}
            experts = {str(expert): expert for expert in range(members.group.num_experts)} or {"": _NOWHERE}
            numbers = _NUMBER.findall(members.group.name)
            templates = self._forms.setdefault(_NUMBER.sub("", members.group.name), [])
            alike = next((each for each in templates if (each.numbers, each.experts) == (numbers, experts)), None)
            if alike is None:
                templates.append(_Template(numbers, experts, layers))
            else:
                alike.layers.update({**layers, **alike.layers})

    def find(self, name: str) -> tuple[_Members, _Place] | None:
        """The group that a tensor of this name belongs to, and its place there."""
        numbers = _NUMBER.findall(name)
        for template in self._forms.get(_NUMBER.sub("", name), ()):
            found = template.find(numbers)
            if found is not None:
                return found
        return None


def _match(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> tuple[list[_Members], list[HeaderTensor]]:
    """Every expected group with its tensors of the file, and the tensors that belong to none."""
    groups = _Groups(expected)
    unknown = []
    for tensor in checkpoint.tensors.values():
        found = groups.find(tensor.name)
        if found is None:
            unknown.append(tensor)
        else:
            members, place = found
            members.stored[place] = tensor
    for members in groups.members:
        members.stored = {place: members.stored[place] for place in sorted(members.stored)}
    return groups.members, unknown


def belongs(expected: tuple[TensorGroup, ...], checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds any of the tensors that its config leads to."""
    groups = _Groups(expected)
    return any(groups.find(name) for name in checkpoint.tensors)


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
    name = group.name.replace(_LAYER, "*").replace(_EXPERT, "*")

    def of_all(number: int) -> str:
        return "" if group.num_tensors == 1 else f" ({number} of {group.num_tensors} tensors)"

    if members.num_missing:
        yield f"{name}: missing{of_all(members.num_missing)}"
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
    kinds: dict[tuple[tuple[int, ...], DType], list[_Place]] = {}
    for place, tensor in members.stored.items():
        kinds.setdefault((tensor.shape, tensor.dtype), []).append(place)
    for (shape, dtype), places in kinds.items():
        alike = group._replace(shape=shape, dtype=dtype)
        # A group spells out whole layers; layers of which only some experts are of this kind go one by one.
        by_layer: dict[int, list[int]] = {}
        for layer, expert in places:
            by_layer.setdefault(layer, []).append(expert)
        whole = max(group.num_experts, 1)
        layers = tuple(layer for layer, experts in by_layer.items() if len(experts) == whole)
        if layers:
            yield alike._replace(layers=() if layers == (_NOWHERE,) else layers)
        for layer, experts in by_layer.items():
            if len(experts) < whole:
                for expert in experts:
                    name = group.name.replace(_EXPERT, str(expert))
                    yield alike._replace(name=name, layers=() if layer == _NOWHERE else (layer,), num_experts=0)
