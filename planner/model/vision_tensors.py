"""The tensors of a vision tower and its projector, by kind."""

from __future__ import annotations

from collections.abc import Iterator

from planner.model.dtypes import DType
from planner.model.tensors import Role, TensorGroup
from planner.model.vision import VisionTower


def vision_tensors(tower: VisionTower, dtype: DType) -> Iterator[TensorGroup]:
    """Every tensor of a tower and its projector."""
    names = tower.names
    hidden, size = tower.hidden_size, tower.intermediate_size
    layers = tuple(range(tower.num_layers))
    patch = tower.patch_size

    def tensor(name: str, *shape: int, role: Role = Role.VISION) -> TensorGroup:
        return TensorGroup(name, shape, dtype, role, layers if "{layer}" in name else ())

    yield tensor(names.embeddings + names.class_token, 1, 1, hidden)
    if tower.mask_token:
        yield tensor(names.embeddings + "mask_token", 1, 1, hidden)
    yield tensor(names.embeddings + names.position, 1, tower.num_patches + 1, hidden)
    yield tensor(f"{names.embeddings}{names.patch}.weight", hidden, tower.num_channels, patch, patch)
    yield tensor(f"{names.embeddings}{names.patch}.bias", hidden)

    for name in names.qkv:
        rows = 3 * hidden // len(names.qkv)
        yield tensor(f"{names.layer}{name}.weight", rows, hidden)
        if tower.qkv_bias:
            yield tensor(f"{names.layer}{name}.bias", rows)
    for name, num_out, num_in in (
        (names.output, hidden, hidden),
        ("mlp.fc1", size, hidden),
        ("mlp.fc2", hidden, size),
    ):
        yield tensor(f"{names.layer}{name}.weight", num_out, num_in)
        yield tensor(f"{names.layer}{name}.bias", num_out)
    attention_stem = names.output.rpartition(".")[0]
    if tower.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield tensor(f"{names.layer}{attention_stem}.{name}.weight", hidden)
    for name in names.norms:
        yield tensor(f"{names.layer}{name}.weight", hidden)
        if not tower.rms_norm:
            yield tensor(f"{names.layer}{name}.bias", hidden)
    for name in names.scales:
        yield tensor(f"{names.layer}{name}", hidden)
    if tower.final_norm:
        yield tensor(f"{names.final_norm}.weight", hidden)
        yield tensor(f"{names.final_norm}.bias", hidden)

    norm, first, second = names.projector
    wide, out = hidden * tower.pixel_shuffle**2, tower.text_hidden_size
    yield tensor(f"{norm}.weight", wide, role=Role.PROJECTOR)
    yield tensor(f"{norm}.bias", wide, role=Role.PROJECTOR)
    yield tensor(f"{first}.weight", out, wide, role=Role.PROJECTOR)
    yield tensor(f"{first}.bias", out, role=Role.PROJECTOR)
    yield tensor(f"{second}.weight", out, out, role=Role.PROJECTOR)
    yield tensor(f"{second}.bias", out, role=Role.PROJECTOR)
