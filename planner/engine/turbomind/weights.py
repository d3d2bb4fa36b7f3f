"""What follows from the weights alone on one rank: their bytes, what converting them leaves, what loading stages.

A search plans one model under thousands of settings, most of which share their weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from planner.engine.turbomind.folding import check_folded
from planner.engine.turbomind.formats import Format
from planner.engine.turbomind.loading import staging_bytes
from planner.kinds import EngineName
from planner.lmdeploy.evidence import traced
from planner.lmdeploy.versions import native_vision, turbomind_rules
from planner.memory import weights
from planner.memory.linears import LinearKind, LinearShape
from planner.memory.parallelism import Parallelism, Sharding
from planner.memory.terms import Term, exact
from planner.memory.weights import Allocation, AllocationKind
from planner.model.layers import GroupedQueryAttention
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec

if TYPE_CHECKING:
    from planner.engine.turbomind.conversion import Leftover

_DEQUANTIZED = frozenset({LinearKind.QKV, LinearKind.DELTA_INPUT})
"""Where a checkpoint holds out one of q, k and v, or of the inputs of linear attention, all become 16-bit
(`builders/attention.py`, add_qkv_proj, and `builders/deltanet.py`, 0.18.0); GPTQ's raise (`weight_format.py`)."""
_HALF_BYTES = 2
_POINTER_BYTES = 16
"""A pointer and a stride for each expert (`MakeStridedPtrs`, 0.16.0)."""


class WeightsKey(NamedTuple):
    """Everything that these follow from. `holds_tower`: whether this rank holds (a part of) the vision tower."""

    spec: ModelSpec
    quantization: Quantization | None
    sharding: Sharding
    version: Version
    capability: int
    holds_tower: bool


class TurbomindWeights:
    """The weights of one rank; each property is computed once.

    Raises:
        UnsupportedModelError: the checkpoint holds out a part of what the engine fuses.
    """

    def __init__(self, key: WeightsKey) -> None:
        self.key = key
        self.text = key.spec.text
        self.format = _format(key)
        if key.quantization is not None and key.quantization.unquantized:
            takes = frozenset[LinearKind]() if key.quantization.method is QuantMethod.GPTQ else _DEQUANTIZED
            weights.check_fused(self.text, key.quantization, key.sharding, takes)
        check_folded(self.text, self.linears)

    def text_allocations(self) -> Iterator[Allocation]:
        """The language model's weights as the engine allocates them."""
        yield from weights.text_plain(self.text, self.key.sharding)
        for linear in self.linears:
            if self.format is None:
                yield weights.plain_linear(linear)
            else:
                yield from self.format.allocations(linear)
            if linear.kind.is_expert:
                yield from _of_all_experts(linear)

    def vision_allocations(self) -> Iterator[Allocation]:
        """The vision tower's weights; empty for a text model.

        Native towers are cut by tensor parallelism; others run in PyTorch, whole, on the first GPU, in fp16.
        """
        tower = self.key.spec.vision
        if tower is None or not self.key.holds_tower:
            return
        native = native_vision(self.key.spec.architecture, self.key.version)
        parallelism = self.key.sharding.parallelism if native else Parallelism()
        yield from weights.vision_plain(tower, parallelism)
        for linear in weights.vision_linears(tower, parallelism):
            yield weights.plain_linear(linear)

    @cached_property
    def linears(self) -> tuple[LinearShape, ...]:
        """The decoder's linears, in the order of loading."""
        dequantized = frozenset({LinearKind.QKV}) if self._breaks_blocks else frozenset[LinearKind]()
        return tuple(weights.text_linears(self.text, self.key.quantization, self.key.sharding, dequantized))

    @property
    def _breaks_blocks(self) -> bool:
        """Whether heads of queries and keys do not divide a block of fp8, so that these become 16-bit, and values with
        them (`models/utils.py`, reorder_rotary_emb, and `builders/linear.py`, dequant_mixed, 0.18.0).
        """
        quantization = self.key.quantization
        if quantization is None or quantization.method is not QuantMethod.FP8 or not quantization.group_size:
            return False
        heads = [group.attention for group in self.text.layer_groups]
        return any(isinstance(a, GroupedQueryAttention) and quantization.group_size % a.head_dim for a in heads)

    @cached_property
    def fp8_kinds(self) -> frozenset[LinearKind]:
        """The kinds of linears that multiply 8-bit inputs."""
        if self.format is None or not self.format.native_fp8:
            return frozenset()
        return frozenset(linear.kind for linear in self.linears if linear.quantized)

    @cached_property
    def text_bytes(self) -> int:
        """Bytes of the language model's tensors."""
        return sum(a.total_bytes for a in self.text_allocations())

    @cached_property
    def vision_bytes(self) -> int:
        """Bytes of the vision tower's."""
        return sum(a.total_bytes for a in self.vision_allocations())

    def text_term(self) -> Term:
        """The language model's weights."""
        text, quantization, tp = self.text, self.key.quantization, self.key.sharding.tp
        what = "16-bit" if quantization is None else f"{quantization.method} {quantization.bits}-bit"
        shared = f" / tp {tp}" if tp > 1 else ""
        formula = f"{what} linears{shared} + 2 x {text.vocab_size} x {text.hidden_size} x 2 + norms"
        formula = f"{formula} = {self.text_bytes} bytes"
        return exact("weights", self.text_bytes, formula, "language model, both vocabulary matrices")

    def vision_term(self, what: str) -> Term:
        """The vision tower's; `what` says who holds them."""
        tower = self.key.spec.vision
        assert tower is not None
        formula = f"{tower.num_layers} layers of {tower.hidden_size} x {tower.intermediate_size}, 16-bit"
        return exact("vision_tower", self.vision_bytes, f"{formula} = {self.vision_bytes} bytes", what)

    @cached_property
    def pool_used_bytes(self) -> int:
        """What all of them take of their pool."""
        return sum(a.aligned_bytes for a in (*self.text_allocations(), *self.vision_allocations()))

    @cached_property
    def leftover(self) -> Leftover | None:
        """What converting them leaves in their pool, None where nothing is converted."""
        key, text = self.key, self.text
        shapes = [linear for linear in self.linears if key.quantization is None or linear.quantized]
        if key.quantization is None and not any(shape.kind.is_expert for shape in shapes):
            return None
        # The replay of packing is code that a dense 16-bit model starts without.
        from planner.engine.turbomind.conversion import conversion_leftover
        from planner.engine.turbomind.packing import PoolUsage

        head = next(a for a in weights.text_plain(text, key.sharding) if a.kind is AllocationKind.OUTPUT_HEAD)
        return conversion_leftover(
            shapes,
            key.quantization,
            self.format.packed_group_size if self.format else 0,
            PoolUsage(self.pool_used_bytes, head.aligned_bytes),
            key.capability,
            lambda subject: traced(subject, EngineName.TURBOMIND, key.version, key.capability),
        )

    @cached_property
    def staging_bytes(self) -> int:
        """The most that torch reserves on the first GPU while they are loaded."""
        return staging_bytes(self.text, self.key.quantization, self.key.sharding.parallelism)


def _of_all_experts(linear: LinearShape) -> Iterator[Allocation]:
    """What a layer has for such a linear of all its experts: pointers to the weights, and to the scales, and the biases
    once more in one piece (MoeWeight, `src/turbomind/models/moe_weight.cc`, 0.16.0; traced).
    """
    pointers = _POINTER_BYTES * linear.num_experts
    tables = 2 if linear.quantized else 1
    yield Allocation(AllocationKind.POINTERS, pointers, tables * linear.num_layers, linear.kind)
    if linear.bias:
        size_bytes = linear.num_experts * linear.num_out * _HALF_BYTES
        yield Allocation(AllocationKind.BIAS, size_bytes, linear.num_layers, linear.kind)


@lru_cache(maxsize=512)  # a sweep asks for every model, on GPUs of every kind
def weights_of(key: WeightsKey) -> TurbomindWeights:
    """The weights of a key."""
    return TurbomindWeights(key)


def _format(key: WeightsKey) -> Format | None:
    """How quantized linears are kept; None for a 16-bit model."""
    if key.quantization is None:
        return None
    rules, group_size = turbomind_rules(key.version), key.quantization.group_size
    if key.capability == 90 and rules.int4_sm90_group:  # fp8 and mxfp4 do not ask, or have no more
        group_size = min(group_size, rules.int4_sm90_group)
    native_fp8 = key.quantization.method is QuantMethod.FP8 and key.capability == rules.fp8_native_sm
    return Format(key.quantization, group_size, native_fp8)
