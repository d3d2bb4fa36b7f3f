"""What TurboMind's Python loader (from 0.14) holds in torch's cache while it fills the engine's weights.

The loader reads a tensor to the GPU, makes it contiguous in the engine's layout, and copies it into the weight pool;
torch keeps what it reserved until loading ends (`lmdeploy/turbomind/model_loader.py`, export). Under tensor parallelism
whole tensors go through the first GPU. The order below is that of `lmdeploy/turbomind/models/llama.py` and
`builders/{text_model,attention,ffn}.py`, 0.18.0.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.parallelism import Parallelism
from planner.memory.torch_cache import TorchCache
from planner.model.layers import Attention, DenseMlp, GatedDeltaNet, GroupedQueryAttention, LatentAttention, Mlp, MoeMlp
from planner.model.quantization import Quantization
from planner.model.spec import TextModel

_HALF_BYTES = 2


def staging_bytes(text: TextModel, quantization: Quantization | None, parallelism: Parallelism) -> int:
    """The most that torch reserves on the first GPU while the language model is loaded."""
    cache = TorchCache()
    table_bytes = text.vocab_size * text.hidden_size * _HALF_BYTES
    cache.allocate(table_bytes)  # the embedding waits until the whole model is built
    cache.allocate(text.hidden_size * _HALF_BYTES)
    # The head as read, then a rank's part transposed.
    head = [cache.allocate(table_bytes), cache.allocate(table_bytes // parallelism.tp)]
    for block in head:
        cache.release(block)
    for group in text.layer_groups:
        _attention(cache, text.hidden_size, group.attention, quantization)
        for size in _intermediate_sizes(group.mlp):
            _mlp(cache, text.hidden_size, size, quantization)
    return cache.reserved_bytes


def _read_bytes(num_in: int, num_out: int, quantization: Quantization | None) -> int:
    """A linear's tensors as the loader holds them: 4-bit weights are unpacked to a byte each."""
    if quantization is None:
        return num_in * num_out * _HALF_BYTES
    return num_in * num_out


def _attention(cache: TorchCache, hidden: int, attention: Attention, quantization: Quantization | None) -> None:
    match attention:
        case GroupedQueryAttention():
            _grouped_query(cache, hidden, attention.query_width, attention.kv_width, quantization)
        case LatentAttention():
            raise not_planned("latent attention under TurboMind")
        case GatedDeltaNet():
            raise not_planned("gated linear attention under TurboMind")
        case _:
            assert_never(attention)


def _intermediate_sizes(mlp: Mlp) -> Iterator[int]:
    """Of the gated MLPs of a layer that differ."""
    match mlp:
        case DenseMlp():
            yield mlp.intermediate_size
        case MoeMlp():
            yield mlp.expert_intermediate_size
            if mlp.shared_intermediate_size:
                yield mlp.shared_intermediate_size
        case _:
            assert_never(mlp)


def _grouped_query(cache: TorchCache, hidden: int, q_out: int, kv_out: int, quantization: Quantization | None) -> None:
    sizes = [_read_bytes(hidden, out, quantization) for out in (q_out, kv_out, kv_out)]
    read = [cache.allocate(size) for size in (*sizes, _read_bytes(q_out, hidden, quantization))]
    reordered = [cache.allocate(size) for size in sizes[:2]]  # rotary order of q and k
    fused = cache.allocate(sum(sizes))
    for block in (fused, *reordered):
        cache.release(block)
    output = cache.allocate(_read_bytes(q_out, hidden, quantization))
    for block in (output, *read):
        cache.release(block)


def _mlp(cache: TorchCache, hidden: int, size: int, quantization: Quantization | None) -> None:
    one = _read_bytes(hidden, size, quantization)
    read = [cache.allocate(one) for _ in range(3)]
    fused = [cache.allocate(2 * one) for _ in range(2)]  # interleaved, then made contiguous
    for block in fused:
        cache.release(block)
    down = cache.allocate(one)
    for block in (down, *read):
        cache.release(block)
