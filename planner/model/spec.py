"""What a model is made of, in lmplan's own names. Past this module nobody opens a config.json again.

A model is a tuple of layer groups, each an attention kind and an MLP kind, plus an optional vision tower.
A new mechanism is a new kind in one of the unions below. Whoever takes a kind apart does so with a `match` that ends in
`assert_never`, so the type checker lists the places to extend.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from planner.kinds import assert_never
from planner.model.dtypes import DType


@dataclass(frozen=True, slots=True)
class GroupedQueryAttention:
    """Attention whose `num_heads` query heads share `num_kv_heads` key and value heads.

    `qk_norm` is an RMSNorm of `head_dim` weights on queries and on keys (Qwen3).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """A gated MLP: gate and up [intermediate, hidden], down [hidden, intermediate]."""

    intermediate_size: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class MoeMlp:
    """A router over `num_experts` gated MLPs and, where its size is not 0, a shared expert with its own gate."""

    num_experts: int
    num_experts_per_tok: int
    expert_intermediate_size: int
    shared_intermediate_size: int = 0


Attention = GroupedQueryAttention
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


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Decoder layers of one make; `layers` are their indices in the checkpoint."""

    layers: tuple[int, ...]
    attention: Attention
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class TensorNames:
    """How a family names its tensors. Names inside a layer stand behind `layer`, which holds ``{layer}``.

    Where `qkv` is set, queries, keys and values are one tensor of that name.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"
    layer: str = "model.layers.{layer}."
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    qkv: str = ""
    output: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    input_norm: str = "input_layernorm"
    post_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{expert}."
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    shared_expert: str = "mlp.shared_expert."
    shared_gate: str = "mlp.shared_expert_gate"

    @property
    def dense(self) -> tuple[str, str, str]:
        """Gate, up and down of a dense MLP."""
        return self.gate, self.up, self.down

    @property
    def experts(self) -> tuple[str, str, str]:
        """Gate, up and down of a routed expert."""
        return self.expert + self.expert_gate, self.expert + self.expert_up, self.expert + self.expert_down

    @property
    def shared_experts(self) -> tuple[str, str, str]:
        """Gate, up and down of the shared expert."""
        stem = self.shared_expert
        return stem + self.expert_gate, stem + self.expert_up, stem + self.expert_down


@dataclass(frozen=True, slots=True)
class TextModel:
    """The decoder. `max_position_embeddings` is in tokens; `prefix` stands before every name in a VLM."""

    architecture: str
    hidden_size: int
    vocab_size: int
    layer_groups: tuple[LayerGroup, ...]
    tie_word_embeddings: bool
    max_position_embeddings: int
    names: TensorNames
    prefix: str = ""

    @property
    def num_layers(self) -> int:
        """Decoder layers in all groups."""
        return sum(len(group.layers) for group in self.layer_groups)


@dataclass(frozen=True, slots=True)
class VisionNames:
    """How a checkpoint names the tensors of its tower; `layer` holds ``{layer}``, and `qkv` is one name where they are
    fused. Those of the class token and the positions stand behind `embeddings`.
    """

    embeddings: str
    class_token: str
    position: str
    patch: str
    layer: str
    qkv: tuple[str, ...]
    output: str
    norms: tuple[str, str]
    scales: tuple[str, str]
    projector: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class VisionTower:
    """An InternViT tower and its projector (pixel shuffle, layer norm, two linears).

    Sizes of the square image and patch in pixels.
    """

    names: VisionNames
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    num_channels: int
    rms_norm: bool
    qk_norm: bool
    qkv_bias: bool
    final_norm: bool
    mask_token: bool
    pixel_shuffle: int
    text_hidden_size: int
    max_tiles: int

    @property
    def num_patches(self) -> int:
        """Patches of one tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Language-model tokens of one tile, after pixel shuffle."""
        return self.num_patches // self.pixel_shuffle**2

    @property
    def max_image_tokens(self) -> int:
        """Tokens of the largest image: every tile and the thumbnail."""
        return self.tokens_per_tile * (self.max_tiles + (1 if self.max_tiles > 1 else 0))


class QuantMethod(Enum):
    """A quantization method; `value` is its ``quant_method`` in a config.json."""

    AWQ = "awq"
    GPTQ = "gptq"
    FP8 = "fp8"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a checkpoint stores the linears of its decoder layers.

    `group_size` is in input features; for fp8 it is the side of the square block. `unquantized` names the modules that
    stay as they were, as the config.json has it (`planner.model.held_out` reads it).
    """

    method: QuantMethod
    bits: int
    group_size: int
    unquantized: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that lmplan knows of a model. `dtype` is that of the checkpoint's float tensors."""

    name: str
    architecture: str
    dtype: DType
    text: TextModel
    vision: VisionTower | None = None
    quantization: Quantization | None = None
