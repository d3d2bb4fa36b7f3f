"""What converting weights to the kernels' layouts does to the weights' pool.

Freed temporaries stay charged until the warm-up is over, so they cost KV cache and not footprint. The calls are known;
what each finds free is a race between host and GPU, replayed at a fast host's speed, and for the band at slow ones' and
for a host that the GPU never catches up with (`packing`).
Calls and sizes from traces of LMDeploy 0.18.0 on an H200 (eleven models), checked on 30 further starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from planner.engine.turbomind.formats import packed_param_bytes
from planner.engine.turbomind.packing import (
    WORKSPACE_BYTES,
    Host,
    Linear,
    Packing,
    Pages,
    PoolUsage,
    least_pages,
    replay,
)
from planner.lmdeploy.words import Subject
from planner.memory.linears import LinearShape, Part
from planner.memory.pool import PAGE_BYTES, reserved
from planner.memory.terms import Evidence, Term
from planner.model.quantization import Quantization, QuantMethod
from planner.units import format_bytes

_HALF_BYTES = 2
_FAST = Host(6.0)
"""Fitted together with the two rates of `packing` on the starts of 18 models on H200s, 15 of which come out to the
page; 4 to 8 us, growths of 300 to 450 us and 0.35 to 0.5 TB/s give the same."""
_NEVER_REACHED = Host(6.0, catches_up=False)
_SLOW = (Host(120.0), Host(150.0))
"""Hosts whose calls go through a sandbox: 90 to 120 us traced. The lesser of two counts: at some speeds host and GPU
fall in step in the replay, which then leaves several times as much; that was never seen."""
_APART_PAGES = 1
"""Scales of mxfp4 are packed in turn, through temporaries among those of the weights, which the replay leaves out: one
page more than it says in the start that was traced (gpt-oss-20b)."""
_MOST_LINEARS = 192
"""As many are replayed at most, 48 layers of a dense model: in the catalog's deeper ones the rest changes no central
figure and no low end."""
_MOST_EXPERTS = 32
"""Of a layer's experts as many are replayed: they are alike, and the first find room that the others use again."""


class Leftover(NamedTuple):
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


def conversion_leftover(
    linears: Iterable[LinearShape],
    quantization: Quantization | None,
    group_size: int,
    usage: PoolUsage,
    capability: int,
    traced: Callable[[Subject], Evidence],
) -> Leftover | None:
    """What the pool keeps besides the weights, or None where nothing is converted.

    Which capability packs what: GetConverters, `src/turbomind/kernels/gemm/convert_v3.cu`, v0.16.0.

    Args:
        linears: the decoder's linears on one rank; of a quantized model those that are quantized.
        group_size: inputs that share a scale and a zero which are packed as well; 0 for none.
        usage: of the pool by the weights.
        capability: compute capability, such as 90.
        traced: the evidence of packing and of moving weights there.
    """
    shapes = list(linears)
    if quantization is not None:
        if not shapes:
            return None
        if moves_weights(quantization, capability):
            return _transposed(shapes, 1, usage.used_bytes, traced(Subject.MOVING))
        apart = _APART_PAGES if quantization.method is QuantMethod.MXFP4 else 0
        return _packed(shapes, group_size, usage, capability, traced(Subject.PACKING), apart)
    experts = [shape for shape in shapes if shape.kind.is_expert]
    if not experts or capability // 10 in (10, 11):
        return None  # dense 16-bit linears stay as they are; so do experts where cuBLAS multiplies them
    if moves_weights(quantization, capability):
        return _transposed(experts, _HALF_BYTES, usage.used_bytes, traced(Subject.MOVING))
    return _packed(experts, 0, usage, capability, traced(Subject.PACKING))


def moves_weights(quantization: Quantization | None, capability: int) -> bool:
    """Whether what is converted is written to another place: fp8 linears and 16-bit experts on 9.0 are transposed."""
    return capability == 90 and (quantization is None or quantization.method is QuantMethod.FP8)


def _packed(
    shapes: list[LinearShape],
    group_size: int,
    usage: PoolUsage,
    capability: int,
    evidence: Evidence,
    apart_pages: int = 0,
) -> Leftover:
    """Packing takes two temporaries of two bytes a weight, then room for scales and zeros in one; theirs are freed.

    On a GPU that nobody traced the low end is one temporary of gate and up alone: layouts that keep the order of the
    weights need no second one (LinearWeight::prepare, `src/turbomind/models/linear_weight.cc`, v0.16.0).
    """
    layer = _layer(shapes, group_size)
    # Experts alone are all alike, and one layer of them stands for all.
    num_layers = 1 if all(shape.kind.is_expert for shape in shapes) else max(shape.num_layers for shape in shapes)
    num_layers = max(min(num_layers, _MOST_LINEARS // len(layer)), 1)
    runs = _runs(Packing(layer, num_layers, usage, packed_param_bytes(capability)))
    size, low, high = _band(runs, lambda pages: pages.left)
    high += apart_pages * PAGE_BYTES
    widest = max(linear.num_weights for linear in layer)
    if evidence.kind == "assumed":
        low = min(low, reserved(usage.used_bytes + _HALF_BYTES * widest) - reserved(usage.used_bytes))
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
    return Leftover(term, *_band(runs, lambda pages: pages.kept))


def _runs(packing: Packing) -> list[Pages]:
    """The replays in the order fast, never reached, slow. The second slow one is left out where it changes nothing:
    where the first is down to what no host can do without.
    """
    runs = [replay(packing, host) for host in (_FAST, _NEVER_REACHED, _SLOW[0])]
    if runs[-1] != least_pages(packing):
        runs.append(replay(packing, _SLOW[1]))
    return runs


def _band(runs: list[Pages], pages_of: Callable[[Pages], int]) -> tuple[int, int, int]:
    """Bytes, low and high end, of the replays."""
    fast, never, *slow = pages = [pages_of(run) for run in runs]
    return fast * PAGE_BYTES, min(pages) * PAGE_BYTES, max(fast, never, min(slow)) * PAGE_BYTES


def _layer(shapes: list[LinearShape], group_size: int) -> tuple[Linear, ...]:
    """A layer's linears in the order in which they are packed, experts last."""
    alone = all(shape.kind.is_expert for shape in shapes)
    ordered = sorted(shapes, key=lambda shape: shape.kind.part.value)
    found = []
    for is_expert in (False, True):
        group = [shape for shape in ordered if shape.kind.is_expert == is_expert]
        times = max((shape.num_linears if alone else shape.num_experts for shape in group), default=0)
        for _ in range(min(times, _MOST_EXPERTS)):
            for shape in group:
                found.append(Linear(shape.num_weights, shape.num_weights // group_size if group_size else 0))
    return tuple(found)


def _transposed(shapes: list[LinearShape], element_bytes: int, used_bytes: int, evidence: Evidence) -> Leftover:
    """On compute capability 9.0 experts and fp8 linears are transposed: a copy each, the original freed behind it."""

    def largest_bytes(part: Part) -> int:
        return max((element_bytes * shape.num_weights for shape in shapes if shape.kind.part is part), default=0)

    wide, down, before = (largest_bytes(part) for part in (Part.GATE_UP, Part.DOWN, Part.QKV))
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
    own = reserved(sum(WORKSPACE_BYTES))
    return Leftover(term, own + PAGE_BYTES, own, own + 3 * PAGE_BYTES)
