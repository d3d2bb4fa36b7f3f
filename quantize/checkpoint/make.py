"""`python -m quantize.checkpoint.make MODEL FOLDER`: a synthetic checkpoint of a model that lmplan knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from planner.cli.output import say
from planner.errors import EnvironmentProblem, LmplanError
from planner.files.escape import shown
from planner.kinds import WeightsChoice
from planner.model import formats
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.rewrite import cut_layers, quantized_config
from planner.model.source import resolve
from planner.units import format_bytes
from quantize.checkpoint.synthetic import Fill, write_checkpoint
from quantize.data import ROOT as DATA

TINY_LLAMA = "tiny-llama"


def known_config(model: str) -> Mapping[str, Any]:
    """The config.json of a model to make: ``tiny-llama``, or what `planner.model.source.resolve` finds."""
    if model == TINY_LLAMA:
        config: dict[str, Any] = json.loads((DATA / "tiny-llama.json").read_text(encoding="utf-8"))
        return config
    return resolve(model).config


def make(
    model: str, folder: Path, *, fill: Fill, weights: str = WeightsChoice.AS_IS, seed: int = 0, layers: int = 0
) -> Path:
    """Make a synthetic checkpoint of `model` in `folder`.

    Args:
        model: ``tiny-llama``, a catalog name, a Hub id or a folder with a config.json.
        folder: where to.
        fill: ``sparse`` (no values) or ``drawn`` (random ones).
        weights: ``as-is`` or ``w4a16``.
        seed: of the drawn values.
        layers: keep so many decoder layers, 0 for all.

    Raises:
        LmplanError: an unknown model, or a folder that cannot be written.
    """
    config = dict(known_config(model))
    if layers:
        config = cut_layers(config, layers)
    spec = read_spec(config, model)
    quantization = formats.choose(spec, WeightsChoice(weights))
    groups = formats.store(inventory(spec), quantization)
    if quantization is not None and spec.quantization is None:
        config = quantized_config(config, quantization)
    try:
        return write_checkpoint(folder, config, groups, fill=fill, seed=seed)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {shown(folder)}: {error.strerror or error}") from None


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--fill", type=click.Choice(["sparse", "drawn"]), default="sparse", show_default=True)
@click.option(
    "--weights",
    type=click.Choice([str(WeightsChoice.AS_IS), str(WeightsChoice.W4A16)]),
    default=str(WeightsChoice.AS_IS),
    show_default=True,
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--layers", type=click.IntRange(min=0), default=0, help="Keep so many decoder layers; 0 keeps all.")
def main(model: str, folder: Path, fill: Fill, weights: str, seed: int, layers: int) -> None:
    """Make a synthetic checkpoint of MODEL in FOLDER: its shapes without its values."""
    try:
        path = make(model, folder, fill=fill, weights=weights, seed=seed, layers=layers)
    except LmplanError as error:
        say(f"error: {error.message}", err=True)
        raise SystemExit(error.exit_code) from None
    status = path.stat()
    say(f"{shown(path)}: {format_bytes(status.st_size)}, {format_bytes(status.st_blocks * 512)} on disk")


if __name__ == "__main__":
    main()
