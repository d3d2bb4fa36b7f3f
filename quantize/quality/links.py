"""Which linears share what smoothing may have moved: a norm and what takes its output, a linear and what it feeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.model.spec import ModelSpec, TensorNames
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup, inventory


@dataclass(frozen=True, slots=True)
class Link:
    """A linear of the decoder by the name of its module.

    Attributes:
        layer: of the decoder.
        norm: the norm whose output it takes, or None.
        feeder: the linear whose outputs are its inputs, or None.
        feeds: how many of its outputs, the last ones, are the inputs of another linear; 0 for none.
    """

    name: str
    layer: int
    norm: str | None = None
    feeder: str | None = None
    feeds: int = 0


def links(spec: ModelSpec) -> list[Link]:
    """All linears of the decoder layer by layer, those that feed others before them. Routers count: they take a norm's
    output and so are scaled, though never quantized."""
    found: list[Link] = []
    for group in inventory(spec):
        is_linear = group.role in LINEAR_ROLES or group.role is Role.ROUTER
        if is_linear and len(group.shape) == 2:
            found += _of_group(spec, group)
    return sorted(found, key=lambda link: link.layer)


def _of_group(spec: ModelSpec, group: TensorGroup) -> Iterator[Link]:
    names = spec.text.names
    stem = spec.text.prefix + names.layer
    module = group.name.removesuffix(".weight").removeprefix(stem)
    feeder = _feeders(names).get(module)
    fed = next((fed for fed, feeds in _feeders(names).items() if feeds == module), None)
    plain = Link("", 0, norm=_norm(names, module))
    if feeder is not None and _moves(spec, group, feeder, module):
        plain = replace(plain, feeder=stem + feeder)
    if fed is not None and _moves(spec, group, module, fed):
        plain = replace(plain, feeds=_shape(spec, group, fed)[1])
    for layer in group.layers:
        for expert in range(max(group.num_experts, 1)):

            def named(name: str | None, layer: int = layer, expert: int = expert) -> str | None:
                return name and name.replace("{layer}", str(layer)).replace("{expert}", str(expert))

            name = named(stem + module)
            assert name is not None
            norm = named(plain.norm and stem + plain.norm)
            yield replace(plain, name=name, layer=layer, norm=norm, feeder=named(plain.feeder))


def _norm(names: TensorNames, module: str) -> str | None:
    """The norm before a linear."""
    if module in (names.query, names.key, names.value, names.qkv):
        return names.input_norm
    into_mlp = (*names.dense[:2], *names.experts[:2], *names.shared_experts[:2], names.router, names.shared_gate)
    return names.post_norm if module in into_mlp else None


def _feeders(names: TensorNames) -> dict[str, str]:
    """Linear -> the linear that is multiplied into its inputs: values, and up, for activations leave their scale."""
    ways = (names.dense, names.experts, names.shared_experts)
    return {names.output: names.qkv or names.value, **{down: up for _, up, down in ways}}


def _moves(spec: ModelSpec, group: TensorGroup, feeder: str, fed: str) -> bool:
    """Whether a scale can be moved between two linears.

    Each input must have an output of its own: heads that share their values leave none. One linear for queries, keys
    and values has two or three times as many (`smooth_fc_fcs` in `lmdeploy/lite/quantization/awq.py`).
    """
    num_outputs, num_inputs = _shape(spec, group, feeder)[0], _shape(spec, group, fed)[1]
    return num_outputs in (num_inputs, 2 * num_inputs, 3 * num_inputs)


def _shape(spec: ModelSpec, group: TensorGroup, module: str) -> tuple[int, int]:
    """[outputs, inputs] of a linear in the same layers."""
    name = f"{spec.text.prefix}{spec.text.names.layer}{module}.weight"
    for other in inventory(spec):
        if other.name == name and set(other.layers) & set(group.layers):
            num_outputs, num_inputs = other.shape
            return num_outputs, num_inputs
    raise AssertionError(f"no linear {name}")
