"""GPU memory of calibration: the allocations of a layer and of the final norm, replayed through PyTorch's cache.

All samples go through the model in one forward. LMDeploy moves one layer at a time to the GPU and cuts only the inside
of a layer into batches; its observers add temporaries at every linear and norm. The order of allocations below is that
of a recorded run (transformers 5 with sdpa attention, `lite/quantization/calibration.py` of 0.18.0). The driver shows
what the cache reserved, so that is what is replayed; LMDeploy empties the cache after each layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import not_planned
from planner.kinds import assert_never
from planner.memory.torch_cache import TorchCache
from planner.model.layers import DenseMlp, GatedDeltaNet, GroupedQueryAttention, LatentAttention, LayerGroup, MoeMlp
from planner.model.spec import TextModel

_HALF = 2
_FLOAT = 4
_INT64 = 8
# From the third layer on, layers find the cache as the one before them did.
_LAYERS = 3


@dataclass(frozen=True, slots=True)
class CalibrationPeak:
    """The most that PyTorch reserves, which is what the driver shows, and the most that is allocated at once.

    LMDeploy prints the latter, as it stands after each layer; the peak is later, in the final norm or in its observer.
    """

    reserved_bytes: int
    allocated_bytes: int


class _Cache(TorchCache):
    """A TorchCache whose blocks go by numbers, and that remembers its peaks."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.allocated_bytes = 0
        self.peak_allocated_bytes = 0
        self._next = 0
        self._held = {0: self.allocate(1)}

    def take(self, size_bytes: int) -> int:
        block = self.allocate(size_bytes)
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
        self.allocated_bytes += block.size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        self._next += 1
        self._held[self._next] = block
        return self._next

    def drop(self, *numbers: int) -> None:
        for number in numbers:
            block = self._held.pop(number)
            self.allocated_bytes -= block.size_bytes
            self.release(block)


class _Replay:
    """The allocations of one model's calibration. Sizes are for 16-bit weights and activations."""

    def __init__(self, text: TextModel, group: LayerGroup, seqlen: int, search_scale: bool, on_gpu: bool) -> None:
        self.cache = _Cache()
        self.hidden = text.hidden_size
        attention = group.attention
        match attention:
            case GroupedQueryAttention():
                self.query = attention.num_heads * attention.head_dim
                self.key = attention.num_kv_heads * attention.head_dim
                self.head_dim = attention.head_dim
                self.num_heads = attention.num_heads
            case LatentAttention():
                raise not_planned("the calibration of latent attention")
            case GatedDeltaNet():
                raise not_planned("the calibration of gated linear attention")
            case _:
                assert_never(attention)
        self.seqlen = seqlen
        self.search_scale = search_scale
        self.count_bytes = _INT64 if on_gpu else 0
        mlp = group.mlp
        match mlp:
            case DenseMlp():
                self.intermediate, num_experts = mlp.intermediate_size, 1
            case MoeMlp():
                # Experts are computed one after the other; calibration knows no such model but Mixtral.
                self.intermediate, num_experts = mlp.expert_intermediate_size, mlp.num_experts
            case _:
                assert_never(mlp)
        sides = [(self.query, self.hidden), (self.key, self.hidden), (self.key, self.hidden), (self.hidden, self.query)]
        sides += [(self.intermediate, self.hidden)] * 3 * num_experts
        self.layer_bytes = [num_out * num_in * _HALF for num_out, num_in in sides]

    def observe(self, tokens: int, width: int) -> None:
        """An observer: isnan as booleans, which CUDA casts to int64 to count them, then the absolute values."""
        cache, elements = self.cache, tokens * width
        cache.drop(cache.take(elements), cache.take(elements * self.count_bytes))
        cache.drop(cache.take(elements * _HALF))

    def linear(self, tokens: int, num_in: int, num_out: int) -> int:
        """A linear: its input and its output are observed."""
        self.observe(tokens, num_in)
        out = self.cache.take(tokens * num_out * _HALF)
        self.observe(tokens, num_out)
        return out

    def norm(self, tokens: int) -> int:
        """RMSNorm in float32, back to 16 bits, observed."""
        cache, floats, halves = self.cache, tokens * self.hidden * _FLOAT, tokens * self.hidden * _HALF
        wide = cache.take(floats)
        cache.drop(cache.take(floats))  # squares
        normed = cache.take(floats)
        cache.drop(wide)
        cast = cache.take(halves)
        out = cache.take(halves)
        cache.drop(normed, cast)
        self.observe(tokens, self.hidden)
        return out

    def rotate(self, tokens: int, width: int) -> tuple[int, int, int]:
        """Rotary embedding: the result and two products that live until the function returns."""
        cache, size = self.cache, tokens * width * _HALF
        with_cosine = cache.take(size)
        negated = cache.take(size // 2)
        joined = cache.take(size)
        cache.drop(negated)
        with_sine = cache.take(size)
        cache.drop(joined)
        return cache.take(size), with_cosine, with_sine

    def attention(self, tokens: int, normed: int) -> int:
        """Self-attention. With a mask and fewer kv heads than heads, torch keeps the scores and their softmax."""
        cache = self.cache
        query = self.linear(tokens, self.hidden, self.query)
        key = self.linear(tokens, self.hidden, self.key)
        value = self.linear(tokens, self.hidden, self.key)
        turned_query, *rest = self.rotate(tokens, self.query)
        turned_key, *more = self.rotate(tokens, self.key)
        cache.drop(query, key, *rest, *more)
        scores = [cache.take(tokens * self.seqlen * self.num_heads * _HALF) for _ in range(2)]
        mixed = cache.take(tokens * self.query * _HALF)
        cache.drop(*scores)
        out = self.linear(tokens, self.query, self.hidden)
        cache.drop(normed, value, turned_query, turned_key, mixed)
        return out

    def mlp(self, tokens: int, normed: int) -> int:
        """The gated MLP."""
        cache, size = self.cache, tokens * self.intermediate * _HALF
        gate = self.linear(tokens, self.hidden, self.intermediate)
        activated = cache.take(size)
        cache.drop(gate)
        up = self.linear(tokens, self.hidden, self.intermediate)
        product = cache.take(size)
        cache.drop(activated, up)
        out = self.linear(tokens, self.intermediate, self.hidden)
        cache.drop(normed, product)
        return out

    def layer(self, batches: list[int], all_bytes: int) -> int:
        """One decoder layer over all samples; the number of its output."""
        cache = self.cache
        weights = [cache.take(size) for size in self.layer_bytes]
        outputs = []
        kept: list[int] = []
        for sequences in batches:
            tokens = sequences * self.seqlen
            half = tokens * self.hidden * _HALF
            # The search keeps the inputs of the latest batch's linears until the next batch replaces them.
            cache.drop(*kept)
            after_attention = self.attention(tokens, self.norm(tokens))
            residual = cache.take(half)
            cache.drop(after_attention)
            after_mlp = self.mlp(tokens, self.norm(tokens))
            outputs.append(cache.take(half))
            cache.drop(residual, after_mlp)
            kept = []
            if self.search_scale:
                widths = (self.hidden, self.query, self.hidden, self.intermediate)
                kept = [cache.take(tokens * width * _HALF) for width in widths]
                self._search(tokens)
        joined = cache.take(all_bytes)
        cache.drop(*outputs, *kept, *weights)
        cache.empty()
        return joined

    def _search(self, tokens: int) -> None:
        """One try of the scale search: the MLP's reference output, its output, and their squared difference."""
        cache = self.cache
        reference = cache.take(tokens * self.hidden * _HALF)
        wide = [cache.take(tokens * self.intermediate * _HALF) for _ in range(3)]
        out = cache.take(tokens * self.hidden * _HALF)
        cache.drop(*wide)
        cache.drop(cache.take(tokens * self.hidden * _FLOAT))
        cache.drop(cache.take(tokens * self.hidden * _FLOAT))
        cache.drop(reference, out)


def calibration_peak(
    text: TextModel, *, samples: int, seqlen: int, batch_size: int, search_scale: bool, on_gpu: bool = True
) -> CalibrationPeak:
    """What PyTorch takes at most while it calibrates, without the CUDA context.

    Args:
        text: the language model; in a VLM nothing else is moved to the GPU.
        samples, seqlen: so many sequences of `seqlen` tokens go through in one forward.
        batch_size: sequences that a layer takes at once.
        search_scale: whether scales are searched.
        on_gpu: a CPU counts NaN without casting first.
    """
    replays = [_Replay(text, group, seqlen, search_scale, on_gpu) for group in text.layer_groups]
    peaks = [_peak(replay, text, samples, seqlen, batch_size) for replay in replays]
    return CalibrationPeak(max(p.reserved_bytes for p in peaks), max(p.allocated_bytes for p in peaks))


def _peak(replay: _Replay, text: TextModel, samples: int, seqlen: int, batch_size: int) -> CalibrationPeak:
    """The peak were all layers as those of the replay."""
    cache = replay.cache
    tokens = samples * seqlen
    all_bytes = tokens * text.hidden_size * _HALF
    batches = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    # The embedding, the token ids, and the embedded samples, which the model's forward holds to its end.
    for size in (text.vocab_size * text.hidden_size * _HALF, tokens * _INT64, 2 * seqlen * replay.head_dim * _HALF):
        cache.take(size)
    embedded = hidden = cache.take(all_bytes)
    for _ in range(min(_LAYERS, text.num_layers)):
        out = replay.layer(batches, all_bytes)
        if hidden != embedded:
            cache.drop(hidden)
        hidden = out
    replay.norm(tokens)
    return CalibrationPeak(cache.peak_bytes, cache.peak_allocated_bytes)
