"""What the PyTorch engine's weights take on one rank: tensors, what torch reserves for them, packed copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from packaging.version import Version

from planner.engine.pytorch.packed_copy import packed_bytes
from planner.engine.turbomind.formats import packed_param_bytes
from planner.errors import not_planned
from planner.kinds import assert_never
from planner.lmdeploy.versions import turbomind_rules
from planner.memory import weights
from planner.memory.linears import LinearShape
from planner.memory.parallelism import Sharding
from planner.memory.torch_cache import TorchCache
from planner.memory.weights import Allocation, AllocationKind, of_linear
from planner.model.quantization import Quantization, QuantMethod
from planner.model.spec import ModelSpec
from planner.units import ceil_div

_HALF_BYTES = 2
_MOST_ALLOCATIONS = 2**16
"""As many are replayed at most, a quarter of a second; Qwen3-235B-A22B in fp8 has 49,000, DeepSeek-V3 59,000. Of a
model with more of them, what is reserved grows with their bytes as it did so far."""


@dataclass(frozen=True, slots=True)
class WeightsKey:
    """Everything that these follow from."""

    spec: ModelSpec
    quantization: Quantization | None
    sharding: Sharding
    version: Version
    capability: int


class PytorchWeights:
    """The weights of one rank; each property is computed once.

    Raises:
        UnsupportedModelError: the checkpoint holds out a part of what the engine fuses.
    """

    def __init__(self, key: WeightsKey) -> None:
        self.key = key
        self.text = key.spec.text
        weights.check_fused(self.text, key.quantization, key.sharding, frozenset())

    @cached_property
    def text_bytes(self) -> int:
        """Bytes of the language model's tensors."""
        return sum(a.total_bytes for a in self.text_allocations())

    @cached_property
    def vision_bytes(self) -> int:
        """Bytes of the vision tower's."""
        return sum(a.total_bytes for a in self.vision_allocations())

    @cached_property
    def reserved_bytes(self) -> int:
        """What torch reserves for all of them."""
        return _reserved_bytes((*self.text_allocations(), *self.vision_allocations()))

    @cached_property
    def packed_copy_bytes(self) -> int:
        """What TurboMind's kernels, which serve AWQ linears, hold of them in a pool of their own; 0 without such."""
        quantization = self.key.quantization
        if quantization is None or quantization.method is not QuantMethod.AWQ:
            return 0
        linears = weights.text_linears(self.text, quantization, self.key.sharding)
        sm90_group = turbomind_rules(self.key.version).int4_sm90_group if self.key.capability == 90 else 0
        group_size = sm90_group or quantization.group_size
        return packed_bytes(linears, group_size, packed_param_bytes(self.key.capability))

    def text_allocations(self) -> Iterator[Allocation]:
        """The language model's tensors; a tied head is the embedding itself."""
        for allocation in weights.text_plain(self.text, self.key.sharding):
            if allocation.kind is AllocationKind.OUTPUT_HEAD and self.text.tie_word_embeddings:
                continue
            yield allocation
        for linear in weights.text_linears(self.text, self.key.quantization, self.key.sharding):
            if linear.quantized and self.key.quantization is not None:
                yield from _quantized(linear, self.key.quantization)
            else:
                yield _stacked(linear)

    def vision_allocations(self) -> Iterator[Allocation]:
        """The vision tower's tensors; empty for a text model."""
        tower = self.key.spec.vision
        if tower is None:
            return
        yield from weights.vision_plain(tower, self.key.sharding.parallelism)
        for linear in weights.vision_linears(tower, self.key.sharding.parallelism):
            yield weights.plain_linear(linear)


@lru_cache(maxsize=512)  # a sweep asks for every model, on GPUs of every kind
def weights_of(key: WeightsKey) -> PytorchWeights:
    """The weights of a key."""
    return PytorchWeights(key)


def _reserved_bytes(allocations: tuple[Allocation, ...]) -> int:
    """What torch reserves for them, layer by layer, as the modules are built: one of n comes once in each layer."""
    cache = TorchCache()
    for allocation in allocations:
        if allocation.num_allocations == 1:
            cache.allocate(allocation.size_bytes)
    repeated = [a for a in allocations if a.num_allocations > 1]
    first_bytes, num_replayed, replayed_bytes = cache.reserved_bytes, 0, 0
    for layer in range(max((a.num_allocations for a in repeated), default=0)):
        if num_replayed >= _MOST_ALLOCATIONS:
            all_bytes = sum(a.total_bytes for a in repeated)
            return first_bytes + ceil_div((cache.reserved_bytes - first_bytes) * all_bytes, replayed_bytes)
        for allocation in repeated:
            if layer < allocation.num_allocations:
                cache.allocate(allocation.size_bytes)
                num_replayed += 1
                replayed_bytes += allocation.size_bytes
    return cache.reserved_bytes


def _quantized(linear: LinearShape, quantization: Quantization) -> Iterator[Allocation]:
    num_in, num_out, size = linear.num_in, linear.num_out, quantization.group_size
    match quantization.method:
        case QuantMethod.FP8 if not size:
            raise not_planned("fp8 with one scale a linear under the PyTorch engine")
        case QuantMethod.FP8:
            yield of_linear(linear, AllocationKind.WEIGHT, linear.num_weights)
            yield of_linear(linear, AllocationKind.SCALES, 4 * ceil_div(num_in, size) * ceil_div(num_out, size))
        case QuantMethod.AWQ | QuantMethod.GPTQ:
            groups = ceil_div(num_in, size) * num_out
            yield of_linear(linear, AllocationKind.WEIGHT, linear.num_weights // 2)
            yield of_linear(linear, AllocationKind.SCALES, _HALF_BYTES * groups)
            yield of_linear(linear, AllocationKind.ZEROS, groups // 2)
        case QuantMethod.MXFP4 | QuantMethod.COMPRESSED_TENSORS | QuantMethod.SMOOTH_QUANT:
            raise not_planned(f"{quantization.method} under the PyTorch engine")
        case _:
            assert_never(quantization.method)


def _stacked(linear: LinearShape) -> Allocation:
    """A 16-bit linear; a layer's experts are one tensor (`lmdeploy/pytorch/nn/moe/`)."""
    size_bytes = weights.plain_linear(linear).size_bytes * linear.num_experts
    return Allocation(AllocationKind.WEIGHT, size_bytes, linear.num_layers, linear.kind)
