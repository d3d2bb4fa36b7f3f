"""`lmplan models` and `lmplan gpus`: the shipped catalogs."""

from __future__ import annotations

import json

import click
from tabulate import tabulate

from planner.cli.output import say
from planner.errors import LmplanError
from planner.hardware import gpu as gpus
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.formats import store
from planner.model.inventory import inventory
from planner.model.tensors import num_parameters, size_bytes
from planner.units import GIB

_FORMATS = click.Choice(["table", "json"])


@click.command("models")
@click.argument("contains", default="")
@click.option("--format", "form", type=_FORMATS, default="table", show_default=True)
def models_command(contains: str, form: str) -> None:
    """List the published models that lmplan knows by name, or those whose name CONTAINS a text.

    Names marked with * are known and not planned yet.
    """
    rows = []
    for entry in catalog.entries():
        if contains.lower() not in entry.name:
            continue
        row: dict[str, object] = {"name": entry.name, "hf_id": entry.hf_id}
        try:
            spec = read_spec(entry.config, entry.name)
            groups = inventory(spec)
            row |= {
                "architecture": spec.architecture,
                "num_parameters": num_parameters(groups),
                "checkpoint_bytes": size_bytes(store(groups, spec.quantization)),
            }
        except LmplanError as error:
            row |= {"architecture": entry.config["architectures"][0], "problem": error.message}
        rows.append(row)
    if form == "json":
        say(json.dumps(rows, indent=2))
        return
    if not rows:
        say(f"no name contains {contains!r}; `lmplan models` lists them all", err=True)
        return
    table = [
        [
            f"{row['name']}{'*' if 'problem' in row else ''}",
            f"{row['num_parameters'] / 1e9:.2f}" if isinstance(row.get("num_parameters"), int) else "",  # type: ignore[operator]
            f"{row['checkpoint_bytes'] / GIB:.2f}" if isinstance(row.get("checkpoint_bytes"), int) else "",  # type: ignore[operator]
            row["architecture"],
            row["hf_id"],
        ]
        for row in rows
    ]
    headers = ["name", "B parameters", "GiB", "architecture", "Hugging Face id"]
    say(tabulate(table, headers=headers, tablefmt="simple", disable_numparse=True))


@click.command("gpus")
@click.argument("contains", default="")
@click.option("--format", "form", type=_FORMATS, default="table", show_default=True)
def gpus_command(contains: str, form: str) -> None:
    """List the GPUs and slices that lmplan knows by name, or those whose name CONTAINS a text."""
    found = [gpu for gpu in gpus.catalog() if contains.lower() in gpu.name]
    if form == "json":
        say(
            json.dumps(
                [
                    {
                        "name": gpu.name,
                        "product": gpu.product,
                        "slice_of": gpu.slice_of or None,
                        "compute_capability": gpu.compute_capability / 10,
                        "memory_total_bytes": gpu.memory_total_bytes,
                        "memory_source": gpu.memory_source,
                        "memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s,
                        "peak_fp16_flops_per_s": gpu.peak_fp16_flops_per_s,
                        "peak_bf16_flops_per_s": gpu.peak_bf16_flops_per_s,
                        "peak_int8_ops_per_s": gpu.peak_int8_ops_per_s,
                        "peak_fp8_flops_per_s": gpu.peak_fp8_flops_per_s,
                        "spec_source": gpu.spec_source,
                        "aliases": list(gpu.aliases),
                    }
                    for gpu in found
                ],
                indent=2,
            )
        )
        return
    if not found:
        say(f"no name contains {contains!r}; `lmplan gpus` lists them all", err=True)
        return
    rows = [
        [
            gpu.name,
            f"{gpu.memory_total_bytes / GIB:.2f}",
            f"{gpu.compute_capability / 10}",
            f"{gpu.memory_bandwidth_bytes_per_s / 1e9:,.0f}",
            f"{gpu.peak_fp16_flops_per_s / 1e12:,.0f}",
            f"part of {gpu.slice_of}" if gpu.slice_of else gpu.product,
        ]
        for gpu in found
    ]
    headers = ["name", "usable GiB", "SM", "GB/s", "fp16 TFLOP/s", "product"]
    say(
        tabulate(
            rows,
            headers=headers,
            tablefmt="simple",
            disable_numparse=True,
            colalign=("left", "right", "right", "right", "right", "left"),
        )
    )
