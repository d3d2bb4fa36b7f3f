"""GPUs: the shipped catalog, slices of cards, and cards that only their size describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from planner.data import read_toml, read_toml_table
from planner.errors import UsageError, perhaps
from planner.units import format_gib, parse_bytes

_FILE = "gpus.toml"
_SEPARATORS = str.maketrans("", "", " -_.")
"""What does not count in a name: RTX4090, rtx_4090 and rtx-4090 are one card."""


class Gpu(NamedTuple):
    """One GPU, or the part of one that a process may use.

    Attributes:
        name: catalog name, such as ``a100-80g``.
        product: the name that the driver prints, empty for a bare size.
        memory_total_bytes: what CUDA can hand out on an idle card.
        memory_source: where that number was read.
        compute_capability: major and minor together, 80 for 8.0.
        memory_bandwidth_bytes_per_s, peak_*: peak rates, dense, 0 where the card has no such mode or
            they are not known (a bare size).
        l2_cache_bytes, num_sm: None where not known.
        on_board: whether it is a module of a server board, which carries four or eight; False for a part of one.
    """

    name: str
    product: str
    memory_total_bytes: int
    memory_source: str
    compute_capability: int
    memory_bandwidth_bytes_per_s: int = 0
    peak_fp16_flops_per_s: int = 0
    peak_bf16_flops_per_s: int = 0
    peak_int8_ops_per_s: int = 0
    peak_fp8_flops_per_s: int = 0
    l2_cache_bytes: int | None = None
    num_sm: int | None = None
    spec_source: str = ""
    aliases: tuple[str, ...] = ()
    slice_of: str = ""
    on_board: bool = False

    @property
    def has_bf16(self) -> bool:
        """Whether the engines compute in bfloat16 on it: from compute capability 8.0."""
        return self.compute_capability >= 80


def catalog() -> Iterator[Gpu]:
    """Every card and slice that lmplan ships, cards first, in the order of the file."""
    data = read_toml(_FILE)
    for name, entry in data.items():
        if name != "slices":
            yield _card(name, entry)
    for name, entry in data["slices"].items():
        yield _slice(name, entry, data[entry["parent"]])


def find_gpu(text: str, sm: int | None = None) -> Gpu:
    """A GPU by catalog name or alias, or by a bare size such as ``24GiB``, which needs `sm`.

    Args:
        text: the name or size.
        sm: compute capability such as 80; only for a bare size.

    Raises:
        UsageError: unknown name (with the nearest ones), or a size without `sm`, or a name with it.
    """
    if re.match(r"[0-9.]+\s*[kmgtKMGT]i?[bB]\s*$", text.strip()):
        return _by_size(text, sm)
    gpu = _by_name(text)
    if sm is not None:
        raise UsageError(f"--sm goes with a size, e.g. 24GiB; the compute capability of {gpu.name} is known")
    return gpu


def _by_name(text: str) -> Gpu:
    wanted = text.strip().lower()
    if re.fullmatch(r"[a-z0-9.-]+", wanted):
        # Most names are spelled as the file spells them: one table to read instead of sixty.
        card = None if "." in wanted else read_toml_table(_FILE, wanted)
        if card is not None:
            return _card(wanted, card)
        part = read_toml_table(_FILE, f'slices."{wanted}"' if "." in wanted else f"slices.{wanted}")
        if part is not None:
            return _slice(wanted, part, _needed(part["parent"]))
    names: list[str] = []
    for gpu in catalog():
        known = (gpu.name, *gpu.aliases)
        names += known
        if not gpu.slice_of:
            known += (gpu.product.lower(), gpu.product.lower().removeprefix("nvidia "))
        if wanted.translate(_SEPARATORS) in (name.translate(_SEPARATORS) for name in known):
            return gpu
    if re.fullmatch(r"[0-9.]+\s*[kmgt]?i?", wanted):
        raise UsageError(f"--gpu {wanted[:40]} has no unit", "24GiB is 24 x 2**30 bytes, 24GB is 24 x 10**9")
    hint = perhaps(wanted, names) or "`lmplan gpus` lists them; a bare size works too: --gpu 24GiB --sm 80"
    raise UsageError(f"unknown GPU {text!r}", hint)


def _by_size(text: str, sm: int | None) -> Gpu:
    if sm is None:
        raise UsageError(
            f"--gpu {text} needs --sm, the compute capability, which decides the kernels",
            "E.g. --sm 80 for an A100, --sm 89 for an RTX 4090 or L40S",
        )
    if not 70 <= sm <= 130:
        raise UsageError(f"--sm is {sm}; expected 70 (V100) to 130, e.g. 80 or 89")
    try:
        total_bytes = parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"--gpu: {error}") from None
    return Gpu(
        name=format_gib(total_bytes),
        product="",
        memory_total_bytes=total_bytes,
        memory_source="as given",
        compute_capability=sm,
    )


def _card(name: str, entry: dict[str, Any]) -> Gpu:
    major, minor = entry["compute_capability"].split(".")
    # NVML's total counts what the driver keeps; CUDA's total, which planning needs, does not.
    reserved_bytes = entry.get("memory_reserved_bytes", 0) if entry["memory_total_kind"] == "nvml" else 0
    return Gpu(
        name=name,
        product=entry["product"],
        memory_total_bytes=entry["memory_total_bytes"] - reserved_bytes,
        memory_source=f"{entry['memory_total_kind']}: {entry['memory_total_source']}",
        compute_capability=int(major) * 10 + int(minor),
        memory_bandwidth_bytes_per_s=entry["memory_bandwidth_bytes_per_s"],
        peak_fp16_flops_per_s=entry["peak_fp16_flops_per_s"],
        peak_bf16_flops_per_s=entry["peak_bf16_flops_per_s"],
        peak_int8_ops_per_s=entry["peak_int8_ops_per_s"],
        peak_fp8_flops_per_s=entry["peak_fp8_flops_per_s"],
        l2_cache_bytes=entry.get("l2_cache_bytes"),
        num_sm=entry.get("num_sm"),
        spec_source=entry["spec_source"],
        aliases=tuple(entry.get("aliases", ())),
        on_board=entry.get("on_board", False),
    )


def _needed(name: str) -> dict[str, Any]:
    card = read_toml_table(_FILE, name)
    assert card is not None, name
    return card


def _slice(name: str, entry: dict[str, Any], card: dict[str, Any]) -> Gpu:
    parent = _card(entry["parent"], card)
    share = float(entry["share"])

    def scaled(rate: int) -> int:
        return round(rate * share)

    return parent._replace(
        name=name,
        memory_total_bytes=entry["memory_total_bytes"],
        memory_source=f"{entry['memory_total_kind']}: {entry['memory_total_source']}",
        memory_bandwidth_bytes_per_s=round(parent.memory_bandwidth_bytes_per_s * entry.get("memory_share", share)),
        peak_fp16_flops_per_s=scaled(parent.peak_fp16_flops_per_s),
        peak_bf16_flops_per_s=scaled(parent.peak_bf16_flops_per_s),
        peak_int8_ops_per_s=scaled(parent.peak_int8_ops_per_s),
        peak_fp8_flops_per_s=scaled(parent.peak_fp8_flops_per_s),
        num_sm=entry.get("num_sm"),
        aliases=tuple(entry.get("aliases", ())),
        slice_of=parent.name,
        on_board=False,
    )
