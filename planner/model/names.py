"""How a family names its tensors.

Annotations are not postponed in this module: see `planner.model.layers`.
"""

from typing import NamedTuple


class TensorNames(NamedTuple):
    """Names inside a layer stand behind `layer`, which holds ``{layer}``.

    What a checkpoint keeps fused has a name of its own, empty where it is not fused: queries, keys and values in `qkv`,
    gate and up in `gate_up`. `norms` are the norms of a layer over the hidden state, as many as it has. `delta_fused`
    says whether gated linear attention has two linears for its inputs (qkvz, ba) or four (qkv, z, b, a). Experts that
    layers share stand behind `packs_stem`, which holds the pack's number as ``{layer}``.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"
    layer: str = "model.layers.{layer}."
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    # grouped-query attention
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    qkv: str = ""
    output: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    sinks: str = "self_attn.sinks"
    # latent attention
    q_down: str = "self_attn.q_a_proj"
    q_down_norm: str = "self_attn.q_a_layernorm"
    q_up: str = "self_attn.q_b_proj"
    kv_down: str = "self_attn.kv_a_proj_with_mqa"
    kv_down_norm: str = "self_attn.kv_a_layernorm"
    kv_up: str = "self_attn.kv_b_proj"
    indexer: str = "self_attn.indexer."
    # gated linear attention
    delta: str = "linear_attn."
    delta_fused: bool = False
    # MLPs
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    gate_up: str = ""
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    correction_bias: str = "mlp.gate.e_score_correction_bias"
    expert: str = "mlp.experts.{expert}."
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    packed_gate_up: str = "mlp.experts.gate_up_proj"
    packed_down: str = "mlp.experts.down_proj"
    shared_expert: str = "mlp.shared_expert."
    shared_gate: str = "mlp.shared_expert_gate"
    packs_stem: str = "model.language_model.meta_mlp.{layer}."

    @property
    def attention_inputs(self) -> tuple[str, ...]:
        """What makes queries, keys and values."""
        return (self.qkv,) if self.qkv else (self.query, self.key, self.value)

    @property
    def dense_inputs(self) -> tuple[str, ...]:
        """Gate and up of a dense MLP."""
        return (self.gate_up,) if self.gate_up else (self.gate, self.up)

    @property
    def experts(self) -> tuple[str, str, str]:
        """Gate, up and down of a routed expert."""
        return self.expert + self.expert_gate, self.expert + self.expert_up, self.expert + self.expert_down

    @property
    def shared_experts(self) -> tuple[str, str, str]:
        """Gate, up and down of the shared expert."""
        stem = self.shared_expert
        return stem + self.expert_gate, stem + self.expert_up, stem + self.expert_down
