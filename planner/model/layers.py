"""What a decoder layer is made of: its attention, or what stands in for it, and its MLP, each a mechanism of a kind.

A family is a choice among these kinds and never a kind itself. Whoever takes a kind apart does so with a `match` that
ends in `assert_never`, so the type checker lists the places that a new one has to enter.

Kinds of one union differ in their number of fields, so that none is ever equal to another: they are tuples. Annotations
are not postponed in this module: a named tuple compiles those that are, fifty of them at every start.
"""

from enum import Enum
from typing import NamedTuple

from planner.kinds import assert_never


class GroupedQueryAttention(NamedTuple):
    """Attention whose `num_heads` query heads share `num_kv_heads` key and value heads.

    Attributes:
        head_dim: elements of a head's query, key and value.
        qkv_bias, output_bias: which linears carry a bias.
        qk_norm: an RMSNorm of `head_dim` weights on queries and one on keys (Qwen3).
        window_tokens: how far back a token looks; 0 for all the way. Layers of another window are another group.
        sinks: one learned logit a head, which takes attention from the tokens (gpt-oss).
        output_gate: the query projection is twice as wide, its other half gates what attention gives (Qwen3.5).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    window_tokens: int = 0
    sinks: bool = False
    output_gate: bool = False

    @property
    def query_width(self) -> int:
        """Rows of the query projection, gate included."""
        return self.num_heads * self.head_dim * (2 if self.output_gate else 1)

    @property
    def kv_width(self) -> int:
        """Rows of the key projection, and of the value projection."""
        return self.num_kv_heads * self.head_dim


class Indexer(NamedTuple):
    """Picks the `topk` tokens that latent attention looks at: `num_heads` small queries of `head_dim` against one key a
    token, which is cached beside the latent (DeepSeek-V3.2).
    """

    num_heads: int
    head_dim: int
    topk: int


class LatentAttention(NamedTuple):
    """Attention over keys and values that one latent vector a token holds for all heads (MLA).

    Attributes:
        q_lora_rank: width of the queries' own latent, None where one linear makes them.
        kv_lora_rank: width of the latent of keys and values.
        qk_nope_head_dim, qk_rope_head_dim: a head's query and key, without and with positions; the latter part of the
            key is one for all heads.
        v_head_dim: elements of a head's value.
        bias: on the linears that come from or go to the hidden state, but for the plain query (`attention_bias`).
        indexer: what makes it sparse; None for dense attention, and in layers that use another layer's choice.
        shares_indexer: whether the layer looks at what an earlier layer's indexer picked.
        expanded: whether LMDeploy caches the keys and values of every head instead of the latent (MiniCPM3).
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    indexer: Indexer | None = None
    shares_indexer: bool = False
    expanded: bool = False

    @property
    def qk_head_dim(self) -> int:
        """Elements of a head's query."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_width(self) -> int:
        """Elements that a token's keys and values take together, over all heads."""
        return self.kv_lora_rank + self.qk_rope_head_dim


class GatedDeltaNet(NamedTuple):
    """Linear attention with a gated delta rule: a state of fixed size a sequence in place of keys and values.

    The state is `num_value_heads` matrices [value_head_dim, key_head_dim] and the last inputs of a convolution of
    `conv_kernel_size` steps over queries, keys and values. `wide_rates`: the file has A_log and the norm in 32 bits.
    """

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel_size: int
    wide_rates: bool = False

    @property
    def key_width(self) -> int:
        """Elements of a token's keys, and of its queries."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        """Elements of a token's values, and of their gate."""
        return self.num_value_heads * self.value_head_dim

    @property
    def conv_width(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.key_width + self.value_width


Recurrent = GatedDeltaNet
"""Kinds that keep a state a sequence and no keys and values."""
Attention = GroupedQueryAttention | LatentAttention | Recurrent


def is_recurrent(attention: Attention) -> bool:
    """Whether it keeps a state a sequence in place of keys and values."""
    match attention:
        case GroupedQueryAttention() | LatentAttention():
            return False
        case GatedDeltaNet():
            return True
        case _:
            assert_never(attention)


class ExpertStorage(Enum):
    """How a checkpoint file stores the experts of a layer.

    SINGLE: three linears an expert. PACKED: gate and up of all experts as [experts, 2 x intermediate, hidden], down as
    [experts, hidden, intermediate]. PACKED_TRANSPOSED: the last two sides of these swapped.
    """

    SINGLE = "single"
    PACKED = "packed"
    PACKED_TRANSPOSED = "packed, inputs first"


class DenseMlp(NamedTuple):
    """A gated MLP: gate and up [intermediate, hidden], down [hidden, intermediate]."""

    intermediate_size: int
    bias: bool = False


class MoeMlp(NamedTuple):
    """A router over `num_experts` gated MLPs, of which a token meets `num_experts_per_tok`, and perhaps a shared one.

    Attributes:
        shared_intermediate_size: of all shared experts together, which are one MLP; 0 for none.
        shared_gate: whether what the shared expert gives has a gate [1, hidden] of its own (Qwen2-MoE).
        router_bias: a bias of the router's linear.
        correction_bias: one 32-bit number an expert that corrects the choice and not the weight (DeepSeek-V3).
        expert_bias: biases of the routed experts.
        storage: how the file has the experts.
        num_packs: routed experts and router are shared between layers, layer i taking pack i % num_packs; 0 where each
            layer has its own (MetaMoE).
    """

    num_experts: int
    num_experts_per_tok: int
    expert_intermediate_size: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    correction_bias: bool = False
    expert_bias: bool = False
    storage: ExpertStorage = ExpertStorage.SINGLE
    num_packs: int = 0


Mlp = DenseMlp | MoeMlp


def routed_experts(mlp: Mlp) -> MoeMlp | None:
    """The experts of an MLP, None where every token meets all of it."""
    match mlp:
        case DenseMlp():
            return None
        case MoeMlp():
            return mlp
        case _:
            assert_never(mlp)


class LayerGroup(NamedTuple):
    """Decoder layers of one make; `layers` are their indices in the checkpoint."""

    layers: tuple[int, ...]
    attention: Attention
    mlp: Mlp
