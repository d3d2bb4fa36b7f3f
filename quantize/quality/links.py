"""Which linears share what smoothing may have moved: a norm and what takes its output, a linear and what it feeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.model.inventory import inventory
from planner.model.names import TensorNames
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES, Role, TensorGroup


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
    groups = [group for group in inventory(spec) if _is_linear(group)]
    found = [link for group in groups for link in _of_group(spec, group, groups)]
    return sorted(found, key=lambda link: link.layer)


def _is_linear(group: TensorGroup) -> bool:
    is_weight = len(group.shape) == 2 and group.name.endswith(".weight")
    return is_weight and (group.role in LINEAR_ROLES or group.role is Role.ROUTER)


def _of_group(spec: ModelSpec, group: TensorGroup, groups: list[TensorGroup]) -> Iterator[Link]:
    names = spec.text.names
    stem = spec.text.prefix + names.layer
    whole = group.name.removesuffix(".weight")
    module = whole.removeprefix(stem) if whole.startswith(stem) else ""  # experts that layers share are in no layer
    norm = _norm(names, module)
    feeder = _feeders(names).get(module)
    fed = next((fed for fed, feeds in _feeders(names).items() if module and feeds == module), None)
    alike = {other.name: other.shape for other in groups if set(other.layers) & set(group.layers)}

    def moved(feeder: str, fed: str) -> int:
        return _moved(alike.get(f"{stem}{feeder}.weight"), alike.get(f"{stem}{fed}.weight"))

    link = Link(whole, 0, norm=norm and stem + norm)
    if feeder is not None and moved(feeder, module):
        link = replace(link, feeder=stem + feeder)
    if fed is not None:
        link = replace(link, feeds=moved(module, fed))
    for layer in group.layers:
        for expert in range(max(group.num_experts, 1)):
            yield Link(
                _numbered(link.name, layer, expert),
                layer,
                norm=link.norm and _numbered(link.norm, layer, expert),
                feeder=link.feeder and _numbered(link.feeder, layer, expert),
                feeds=link.feeds,
            )


def _numbered(name: str, layer: int, expert: int) -> str:
    return name.replace("{layer}", str(layer)).replace("{expert}", str(expert))


def _norm(names: TensorNames, module: str) -> str | None:
    """The norm before a linear. Where a layer has more than two, LMDeploy smooths none."""
    if len(names.norms) != 2:
        return None
    if module in names.attention_inputs:
        return names.norms[0]
    shared = (*names.shared_experts[:2], names.shared_gate)
    return names.norms[1] if module in (*names.dense_inputs, *names.experts[:2], *shared, names.router) else None


def _feeders(names: TensorNames) -> dict[str, str]:
    """Linear -> the linear that is multiplied into its inputs: values, and up, for activations leave their scale."""
    return {
        names.output: names.attention_inputs[-1],
        names.down: names.dense_inputs[-1],
        names.experts[2]: names.experts[1],
        names.shared_experts[2]: names.shared_experts[1],
    }


def _moved(feeder: tuple[int, ...] | None, fed: tuple[int, ...] | None) -> int:
    """How many outputs of a linear can be scaled for the linear that it feeds, given the shapes of both.

    Each input must have an output of its own: heads that share their values leave none. One linear for queries, keys
    and values has three times as many, one for gate and up twice, and the last are meant (`smooth_fc_fcs` in
    `lmdeploy/lite/quantization/awq.py`).
    """
    if feeder is None or fed is None:
        return 0
    return fed[1] if feeder[0] in (fed[1], 2 * fed[1], 3 * fed[1]) else 0
