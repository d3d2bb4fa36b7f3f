"""What converting weights to the kernels' layouts does to the weights' pool.

Freed temporaries stay charged until the warm-up is over, so they cost KV cache and not footprint. The calls are known;
what each finds free depends on how far the GPU has come, and so on the host's speed. They are replayed with the times
below, and for the band on slow hosts and on one that the GPU never catches up with.
Calls and sizes from traces of LMDeploy 0.18.0 on an H200 (eleven models), checked on 30 further starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from planner.engine.turbomind.formats import packed_param_bytes
from planner.lmdeploy.words import Subject
from planner.memory.page_pool import PagePool
from planner.memory.pool import PAGE_BYTES, aligned, reserved
from planner.memory.terms import Evidence, Term
from planner.memory.weights import LinearShape
from planner.model.spec import Quantization
from planner.units import MIB, format_bytes

_HALF_BYTES = 2
_WORKSPACE_BYTES = (1 * MIB, 32 * MIB, 2 * MIB)
"""The GEMM workspace, in the order in which it is taken (traced)."""
_GROWTH_US = 400.0
"""A call that makes the pool grow: 300 to 460 us traced."""
_CALL_US = 6.0
"""Any other call of the host. Fitted together with the two rates below on the starts of 18 models on H200s, 15 of which
come out to the page; 4 to 8 us, growths of 300 to 450 us and 0.35 to 0.5 TB/s give the same."""
_SLOW_CALLS_US = (120.0, 150.0)
"""The same on a host whose calls go through a sandbox: 90 to 120 us traced. The lesser of two counts: at some speeds
host and GPU fall in step in the replay, which then leaves several times as much; that was never seen."""
_PACKED_BYTES_PER_US = 400_000.0
"""What the GPU reads and writes while packing."""
_CACHED_BYTES = 40_000_000
"""Linears whose weights and temporaries are less than this stay in the L2 cache (60 MB on an H200). Fitted too: what
else lies there is not known."""
_CACHED_BYTES_PER_US = 2_000_000.0
"""What the GPU reads and writes while packing those."""
_PASSES_BYTES = (2.5, 7.0)
"""Read and written a weight, behind each temporary: unpacked (0.5 + 2); transposed (2 + 2), cleared (0.5) and packed
(2 + 0.5)."""
_HELD_BYTES = 4.5
"""Bytes a weight that packing goes over: packed, and in both temporaries."""
_MOST_LINEARS = 192
"""As many are replayed at most, 48 layers of a dense model: in the catalog's deeper ones the rest changes no central
figure and no low end."""
_MOST_EXPERTS = 32
"""Of a layer's experts as many are replayed: they are alike, and the first find room that the others use again."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What conversion leaves: until the warm-up is over, and for good with the GEMM workspace.

    Attributes:
        term: charged when the KV cache is sized.
        kept_bytes, kept_low_bytes, kept_high_bytes: what the pool then keeps beyond its pages before conversion, GEMM
            workspace included.
    """

    term: Term
    kept_bytes: int
    kept_low_bytes: int
    kept_high_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """What the weights take of their pool; `behind_bytes` of it lie behind the linears: the output head."""

    used_bytes: int
    behind_bytes: int


@dataclass(frozen=True, slots=True)
class _Linear:
    """Weights to pack, and how many groups have a scale and a zero."""

    num_weights: int
    num_groups: int


@dataclass(frozen=True, slots=True)
class _Pages:
    left: int
    kept: int


def conversion_leftover(
    linears: Iterable[LinearShape],
    quantization: Quantization | None,
    group_size: int,
    room: Room,
    capability: int,
    traced: Callable[[Subject], Evidence],
) -> Leftover | None:
    """What the pool keeps besides the weights, or None where nothing is converted.

    Which capability packs what: GetConverters, `src/turbomind/kernels/gemm/convert_v3.cu`, v0.16.0.

    Args:
        linears: the decoder's linears on one rank; of a quantized model those that are quantized.
        group_size: inputs that share a scale in the engine's 4-bit format.
        room: of the weights.
        capability: compute capability, such as 90.
        traced: the evidence of packing and of moving weights there.
    """
    shapes = list(linears)
    if quantization is not None:
        if not shapes:
            return None
        if moves_weights(quantization, capability):
            return _transposed(shapes, 1, room.used_bytes, traced(Subject.MOVING))
        return _packed(shapes, group_size if quantization.bits == 4 else 0, room, capability, traced(Subject.PACKING))
    experts = [shape for shape in shapes if shape.what.startswith("expert")]
    if not experts or capability // 10 in (10, 11):
        return None  # dense 16-bit linears stay as they are; so do experts where cuBLAS multiplies them
    if moves_weights(quantization, capability):
        return _transposed(experts, _HALF_BYTES, room.used_bytes, traced(Subject.MOVING))
    return _packed(experts, 0, room, capability, traced(Subject.PACKING))


def moves_weights(quantization: Quantization | None, capability: int) -> bool:
    """Whether what is converted is written to another place: fp8 linears and 16-bit experts on 9.0 are transposed."""
    return capability == 90 and (quantization is None or quantization.method == "fp8")


def _packed(shapes: list[LinearShape], group_size: int, room: Room, capability: int, evidence: Evidence) -> Leftover:
    """Packing takes two temporaries of two bytes a weight, then room for scales and zeros in one; theirs are freed.

    On a GPU that nobody traced the low end is one temporary of gate and up alone: layouts that keep the order of the
    weights need no second one (LinearWeight::prepare, `src/turbomind/models/linear_weight.cc`, v0.16.0).
    """
    layer = _layer(shapes, group_size)
    num_layers = max(shape.count for shape in shapes) // max(_repeats(shape, shapes) for shape in shapes)
    num_layers = max(min(num_layers, _MOST_LINEARS // len(layer)), 1)
    param_bytes = packed_param_bytes(capability)
    runs = [
        _replay(layer, num_layers, room, param_bytes, call_us, catches_up=catches_up)
        for call_us, catches_up in ((_CALL_US, True), (_CALL_US, False), *((us, True) for us in _SLOW_CALLS_US))
    ]
    size, low, high = _band([run.left for run in runs])
    widest = max(linear.num_weights for linear in layer)
    if evidence.kind == "assumed":
        low = min(low, reserved(room.used_bytes + _HALF_BYTES * widest) - reserved(room.used_bytes))
    term = Term(
        "conversion_leftover",
        size,
        low,
        high,
        evidence,
        f"two temporaries of up to {format_bytes(_HALF_BYTES * widest)} for each linear, replayed: {format_bytes(low)} "
        f"to {format_bytes(high)} in pages of 32 MiB",
        "freed temporaries of packing weights, held until the warm-up is over",
    )
    return Leftover(term, *_band([run.kept for run in runs]))


def _band(pages: list[int]) -> tuple[int, int, int]:
    """Bytes, low and high end, of the replays in the order central, never caught up, slow hosts."""
    central, never, *slow = pages
    return central * PAGE_BYTES, min(pages) * PAGE_BYTES, max(central, never, min(slow)) * PAGE_BYTES


def _repeats(shape: LinearShape, shapes: list[LinearShape]) -> int:
    """How often a layer has it: experts come many times."""
    if not shape.what.startswith("expert"):
        return 1
    layers = [other.count for other in shapes if not other.what.startswith("expert")]
    return max(shape.count // max(layers), 1) if layers else shape.count


def _layer(shapes: list[LinearShape], group_size: int) -> tuple[_Linear, ...]:
    """A layer's linears in the order in which they are packed: qkv, output, down before gate and up."""

    def place(shape: LinearShape) -> int:
        return 2 * ("down" in shape.what) + 3 * ("gate and up" in shape.what) + ("output" in shape.what)

    ordered = sorted(shapes, key=place)
    found = []
    for expert in (False, True):
        group = [shape for shape in ordered if shape.what.startswith("expert") == expert]
        times = max((_repeats(shape, shapes) for shape in group), default=0)
        for _ in range(min(times, _MOST_EXPERTS)):
            for shape in group:
                num_weights = shape.num_in * shape.num_out
                found.append(_Linear(num_weights, num_weights // group_size if group_size else 0))
    return tuple(found)


@lru_cache(maxsize=1024)  # a sweep asks for the same weights on GPUs of every kind
def _replay(
    layer: tuple[_Linear, ...],
    num_layers: int,
    room: Room,
    param_bytes: float,
    call_us: float,
    *,
    catches_up: bool,
) -> _Pages:
    """Pack layer after layer; where the GPU never catches up with the host, nothing is ever complete."""
    pool = PagePool(room.used_bytes)
    first_pages = pool.num_pages
    now = gpu = 0.0

    def allocate(size_bytes: float) -> int:
        nonlocal now
        before = pool.num_grown
        address = pool.allocate(int(size_bytes), now)
        now += call_us if pool.num_grown == before else call_us + _GROWTH_US
        return address

    def run(size_bytes: float, held_bytes: float) -> None:
        nonlocal gpu
        rate = _CACHED_BYTES_PER_US if held_bytes < _CACHED_BYTES else _PACKED_BYTES_PER_US
        gpu = max(gpu, now) + size_bytes / rate if catches_up else math.inf

    def free(address: int) -> None:
        nonlocal now
        pool.free(address, now, gpu)
        now += call_us

    scales = _scale_addresses(layer, num_layers, room.used_bytes - room.behind_bytes)
    for _ in range(num_layers):
        for linear in layer:
            temporaries = []
            for pass_bytes in _PASSES_BYTES:
                temporaries.append(allocate(_HALF_BYTES * linear.num_weights))
                run(pass_bytes * linear.num_weights, _HELD_BYTES * linear.num_weights)
            for address in reversed(temporaries):
                free(address)
            if not linear.num_groups:
                continue
            allocate(param_bytes * linear.num_groups)
            run((2 * _HALF_BYTES + param_bytes) * linear.num_groups, 0)
            old = next(scales)
            for address in reversed(old):
                pool.place(address, _HALF_BYTES * linear.num_groups)
            for address in reversed(old):
                free(address)
    left = pool.num_pages - first_pages
    for size in _WORKSPACE_BYTES:
        pool.allocate(size, math.inf)
    pool.trim(math.inf)
    # Scales of very large linears leave whole pages behind, which go back and are not counted here: a little too much.
    return _Pages(left, max(pool.num_pages - first_pages, 0))


def _scale_addresses(layer: tuple[_Linear, ...], num_layers: int, end: int) -> Iterator[tuple[int, int]]:
    """Where scales and zeros of each linear lie before: behind its weights, layer after layer, up to `end`."""
    sizes = [(aligned(linear.num_weights // 2), aligned(_HALF_BYTES * linear.num_groups)) for linear in layer]
    at = end - num_layers * sum(weights + 2 * scales for weights, scales in sizes)
    for _ in range(num_layers):
        for weights, scales in sizes:
            yield at + weights, at + weights + scales
            at += weights + 2 * scales


def _transposed(shapes: list[LinearShape], element_bytes: int, used_bytes: int, evidence: Evidence) -> Leftover:
    """On compute capability 9.0 experts and fp8 linears are transposed: a copy each, the original freed behind it."""
    sizes = {shape.what: element_bytes * shape.num_in * shape.num_out for shape in shapes}
    wide = max((size for what, size in sizes.items() if "gate and up" in what), default=0)
    down = max((size for what, size in sizes.items() if "down" in what), default=0)
    before = sizes.get("qkv", 0)
    start = reserved(used_bytes)
    low = reserved(used_bytes + wide + down) - start
    size = reserved(used_bytes + before + 2 * wide + down) - start
    # Where the GPU lags behind, up to three pages more: the ends of copies that find no room together (four starts).
    high = reserved(used_bytes + before + 2 * (wide + down)) - start + 3 * PAGE_BYTES
    term = Term(
        "conversion_leftover",
        size,
        low,
        high,
        evidence,
        f"copies of gate and up {format_bytes(wide)} twice and down {format_bytes(down)}, in pages of 32 MiB",
        "freed originals of transposed weights, held until the warm-up is over",
    )
    # Once the leftover is given back, the workspace has pages to itself, and the ends of what moved keep up to three
    # more (nine starts; mostly one).
    own = reserved(sum(_WORKSPACE_BYTES))
    return Leftover(term, own + PAGE_BYTES, own, own + 3 * PAGE_BYTES)
