"""What TurboMind's Python loader (from 0.14) holds in torch's cache while it fills the engine's weights.

The loader reads a tensor to the GPU, makes it contiguous in the engine's layout, and copies it into the weight pool;
torch keeps what it reserved until loading ends (`lmdeploy/turbomind/model_loader.py`, export). Under tensor parallelism
whole tensors go through the first GPU. The order below is that of `lmdeploy/turbomind/models/llama.py` and
`builders/{text_model,attention,ffn}.py`, 0.18.0.
"""

from __future__ import annotations

from collections.abc import Iterator

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
            _latent(cache, hidden, attention)
        case GatedDeltaNet():
            _gated_delta_net(cache, hidden, attention, quantization)
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


def _latent(cache: TorchCache, hidden: int, attention: LatentAttention) -> None:
    """Linears as read, then queries and output with keys and values folded in, then this padded (`builders/mla.py`)."""
    heads, rank = attention.num_heads, attention.q_lora_rank or hidden
    kv_width = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    sizes = [
        hidden * rank,
        rank * heads * attention.qk_head_dim,
        hidden * attention.latent_width,
        attention.kv_lora_rank * kv_width,
        heads * attention.v_head_dim * hidden,
    ]
    read = [cache.allocate(size * _HALF_BYTES) for size in sizes]
    queries, output = rank * heads * attention.latent_width, heads * attention.latent_width * hidden
    folded = [cache.allocate(size * _HALF_BYTES) for size in (queries, output, output)]
    for block in (*folded, *read):
        cache.release(block)


def _gated_delta_net(cache: TorchCache, hidden: int, net: GatedDeltaNet, quantization: Quantization | None) -> None:
    """Inputs as read, then queries, keys and values apart, then all in one; the output (`builders/deltanet.py`)."""
    gates = 2 * net.num_value_heads * hidden * _HALF_BYTES
    sizes = [_read_bytes(hidden, width, quantization) for width in (net.conv_width, net.value_width)]
    read = [cache.allocate(size) for size in (*sizes, gates)]
    fused = cache.allocate((net.conv_width + net.value_width) * hidden * _HALF_BYTES + gates)
    output = cache.allocate(_read_bytes(net.value_width, hidden, quantization))
    for block in (fused, output, *read):
        cache.release(block)
