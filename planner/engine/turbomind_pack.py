"""What converting weights to the kernels' layouts leaves in the weights' pool.

Freed temporaries stay charged until the warm-up is over, so they cost KV cache and not footprint. Whether a linear
finds what an earlier one gave back is a race between host and GPU: both outcomes were measured, and the term is their
middle.
Orders and sizes from a trace of LMDeploy 0.18.0 on an H200, checked on 22 further runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.pool import PAGE_BYTES, reserved
from planner.memory.terms import Evidence, Term
from planner.memory.weights import LinearShape
from planner.model.spec import Quantization
from planner.units import format_bytes

_HALF_BYTES = 2
_EVIDENCE = Evidence("formula", "traced on H200, 0.18.0; the band is a race in the engine")
_READ = Evidence("assumed", "read in the source of 0.16.0, traced on no such GPU")
"""Which capability packs what: GetConverters, `src/turbomind/kernels/gemm/convert_v3.cu`, v0.16.0."""


def conversion_leftover(
    linears: Iterable[LinearShape], quantization: Quantization | None, used_bytes: int, capability: int
) -> Term | None:
    """Bytes that the pool keeps besides `used_bytes` of weights when free memory is read, or None for none.

    Args:
        linears: the decoder's linears on one rank.
        capability: compute capability, such as 90.
    """
    shapes = list(linears)
    if quantization is not None:
        quantized = [shape for shape in shapes if shape.quantized]
        if capability == 90 and quantization.method == "fp8":
            return _transposed(quantized, 1, used_bytes)
        return _packed(quantized, used_bytes, traced=capability == 90)
    experts = [shape for shape in shapes if shape.what.startswith("expert")]
    if not experts or capability // 10 in (10, 11):
        return None  # dense 16-bit linears stay as they are; so do experts where cuBLAS multiplies them
    if capability == 90:
        return _transposed(experts, _HALF_BYTES, used_bytes)
    return _packed(experts, used_bytes, traced=False)


def _packed(shapes: list[LinearShape], used_bytes: int, *, traced: bool) -> Term:
    """Packing a linear of K x N takes two temporaries of 2KN bytes, in the order qkv, output, down, gate and up.

    The output's fit where qkv's were, down's find the whole pages of qkv's, and gate and up's find down's or do not.
    On a GPU that nobody traced the low end is one temporary of gate and up alone: layouts that keep the order of the
    weights need no second one (LinearWeight::prepare, `src/turbomind/models/linear_weight.cc`, v0.16.0).
    """
    pairs = {shape.what: 2 * _HALF_BYTES * shape.num_in * shape.num_out for shape in shapes}
    wide = max(size for what, size in pairs.items() if "gate and up" in what)
    down = max(size for what, size in pairs.items() if "down" in what)
    qkv = pairs.get("qkv", 0)
    reused = max(qkv - 1, 0) // PAGE_BYTES * PAGE_BYTES  # the pair does not start on a page
    grown_for_down = max(down - reused, 0)
    start = reserved(used_bytes)
    high = reserved(used_bytes + qkv + grown_for_down + wide) - start
    low = max(high - grown_for_down // PAGE_BYTES * PAGE_BYTES, 0)
    if not traced:
        low = min(low, reserved(used_bytes + wide // 2) - start)
    return Term(
        "conversion_leftover",
        (low + high) // 2,
        low,
        high,
        _EVIDENCE if traced else _READ,
        f"pairs of temporaries: qkv {format_bytes(qkv)}, down {format_bytes(down)}, gate and up {format_bytes(wide)}; "
        f"{format_bytes(low)} to {format_bytes(high)} in pages of 32 MiB",
        "freed temporaries of packing weights, held until the warm-up is over",
    )


def _transposed(shapes: list[LinearShape], element_bytes: int, used_bytes: int) -> Term:
    """On compute capability 9.0 experts and fp8 linears are transposed: a copy each, the original freed behind it."""
    sizes = {shape.what: element_bytes * shape.num_in * shape.num_out for shape in shapes}
    wide = max(size for what, size in sizes.items() if "gate and up" in what)
    down = max(size for what, size in sizes.items() if "down" in what)
    before = sizes.get("qkv", 0)
    start = reserved(used_bytes)
    low = reserved(used_bytes + wide + down) - start
    size = reserved(used_bytes + before + 2 * wide + down) - start
    high = reserved(used_bytes + before + 2 * (wide + down)) - start
    return Term(
        "conversion_leftover",
        size,
        low,
        high,
        _EVIDENCE,
        f"copies of gate and up {format_bytes(wide)} twice and down {format_bytes(down)}, in pages of 32 MiB",
        "freed originals of transposed weights, held until the warm-up is over",
    )
