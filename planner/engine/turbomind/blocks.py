"""TurboMind up to 0.14: whole blocks of one allocation, free memory read at a point that moved between versions.

Formulas from `src/turbomind/models/llama/LlamaBatch.cc`, `unified_attention_layer.cc`, `BlockManager.cc` and
`LlamaWeight.cc` at v0.5.3 (up to 0.7 alike), at v0.8.0 and v0.10.2 (up to 0.11), and from `models/language_model.cc`
and `generation/` at v0.12.0 and v0.14.0, with the version table for what else changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.data import read_toml
from planner.engine.base import Deployment
from planner.engine.turbomind.slabs import Turbomind
from planner.kinds import assert_never
from planner.lmdeploy.versions import native_vision
from planner.lmdeploy.words import BatchBuffers
from planner.memory import kv_cache
from planner.memory.attention import on_rank, widest
from planner.memory.capacity import KvCache
from planner.memory.parallelism import Parallelism
from planner.memory.pool import reserved
from planner.memory.terms import FORMULA, Evidence, Term, exact
from planner.memory.weights import Allocation
from planner.model.layers import DenseMlp, Mlp, MoeMlp, routed_experts
from planner.units import MIB, ceil_div, format_bytes, round_up

_HALF_BYTES = 2
_DRIVER_PAGE_BYTES = 2 * MIB
"""cudaMalloc gives large requests memory of their own in pages of 2 MiB; smaller ones share pages."""


class TurbomindBlocks(Turbomind):
    """TurboMind's memory on one rank's GPU, 0.4 to 0.14. Weights and sharding are those of the newer engine."""

    def __init__(self, deployment: Deployment, rank: int = 0) -> None:
        super().__init__(deployment, rank)
        step = self.settings.max_prefill_token_num + self.settings.max_batch_size
        self.max_step_tokens = round_up(step, self.rules.forward_tokens.multiple(self.settings.tp))

    def before_kv(self) -> tuple[Term, ...]:
        """Context, weights and, depending on the version, workspaces and batch buffers."""
        terms = [
            self.host.cuda_context,
            self.weights.text_term(),
        ]
        if self.weights.vision_bytes:
            where = (
                "by the engine"
                if native_vision(self.spec.architecture, self.settings.lmdeploy.rules)
                else ("by PyTorch in fp16, before the engine")
            )
            terms.append(self.weights.vision_term(f"vision tower, held {where}"))
        allocations = (*self.weights.text_allocations(), *self.weights.vision_allocations())
        rounding = sum(_page_rounding(a) for a in allocations)
        terms.append(
            Term(
                "pool_rounding",
                rounding,
                0,
                rounding,
                Evidence("assumed", "cudaMalloc in pages of 2 MiB"),
                "each large tensor rounded up to 2 MiB",
                "ends of the driver's pages",
            )
        )
        for name, size, what in self._workspaces_before():
            terms.append(exact(name, size, format_bytes(size), what))
        nccl = self._communicator()
        if nccl is not None:
            terms.append(nccl[0])
        return tuple(terms)

    def _workspaces_before(self) -> Iterable[tuple[str, int, str]]:
        rules = self.rules
        size = rules.cublas_workspace_bytes
        if rules.free_sampled.behind_workspace:
            size += rules.gemm_workspace_bytes
            if rules.batch_buffers is not BatchBuffers.PHASES:  # which count it themselves
                size += self._attention_workspace()
        if rules.free_sampled.behind_buffers:
            size += self._batch_bytes()
        yield "workspaces", reserved(size), "workspaces (and buffers, from 0.12) that precede the KV cache"

    def transient(self) -> Term | None:
        """Nothing: what loading took is given back before free memory is read."""
        return None

    def reused_bytes(self, transient_bytes: int) -> int:
        """Nothing."""
        return 0

    def kv_cache(self, free_bytes: int) -> KvCache:
        """Whole blocks of the ratio's share of free memory, or as many as were asked for, in one allocation."""
        settings, rules = self.settings, self.rules
        ranks = Parallelism(rules.kv_heads_in_block.ranks(settings.tp))
        block = kv_cache.block_bytes(self.text, settings.quant_policy, rules.block_tokens, ranks)
        blocks = settings.num_kv_blocks
        how = f"{blocks} blocks as asked"
        if blocks is None:
            blocks = kv_cache.share_of(free_bytes, settings.cache_max_entry_count) // block
            how = f"{settings.cache_max_entry_count:g} of the {format_bytes(free_bytes)} free in whole blocks"
        formula = f"{how}; a block is " + kv_cache.block_formula(
            self.text, settings.quant_policy, rules.block_tokens, ranks
        )
        return KvCache(blocks * block, rules.block_tokens, block, blocks, blocks * rules.block_tokens, formula)

    def after_kv(self, kv: KvCache) -> tuple[Term, ...]:
        """Batch buffers and workspaces not yet there, and what the first forwards grow."""
        rules = self.rules
        size = 0
        if not rules.free_sampled.behind_workspace:
            size += rules.gemm_workspace_bytes + self._attention_workspace()
        if not rules.free_sampled.behind_buffers:
            size += self._batch_bytes(kv)
        terms = []
        if size:
            terms.append(
                exact(
                    "batch_buffers",
                    reserved(size),
                    f"buffers for batch {self.settings.max_batch_size}, session {self._session(kv)} tokens, step "
                    f"{self.max_step_tokens} tokens: {format_bytes(size)} in pages of 32 MiB",
                    "hidden states, token ids, logits, attention workspace",
                )
            )
        # Without a warm-up these appear with traffic: a short request at first, a full step at most.
        warm = rules.warm_up.runs(quantized=self.quantization is not None)
        full = reserved(self.forward_bytes(min(self.max_step_tokens, max(kv.tokens, 1)), self._longest(kv)))
        tokens = self.max_step_tokens if warm else min(64, self.max_step_tokens)
        first = reserved(self.forward_bytes(min(tokens, max(kv.tokens, 1))))
        terms.append(
            Term(
                "forward_buffers",
                first,
                first,
                max(full, first),
                FORMULA,
                self.forward_formula(min(tokens, max(kv.tokens, 1))),
                f"activations of {'the warm-up' if warm else 'a short request'}; a full step at the high end",
            )
        )
        late = int(read_toml("host.toml")["assumed"]["before_0_15"]["late_code_high_bytes"])
        terms.append(
            Term(
                "late_code",
                0,
                0,
                late,
                Evidence("assumed", "loaded lazily by older engines; not measured"),
                f"0 to {format_bytes(late)}",
                "kernels and libraries loaded with traffic",
            )
        )
        nccl = self._communicator()
        if nccl is not None:
            terms.append(nccl[1])
        return tuple(terms)

    def _session(self, kv: KvCache | None) -> int:
        if kv is None or not self.rules.shortens_session_len:
            return self.settings.session_len
        return max(min(self.settings.session_len, kv.tokens), 1)

    def _attention_workspace(self) -> int:
        """Split-k partial results of attention for 4096 tokens, and 16 KiB of counters."""
        heads, head_dim = widest(self.text, self.parallelism)
        return 4096 * heads * (self.rules.attention_workspace.state_bytes + 4 * head_dim) + 16384

    def _batch_bytes(self, kv: KvCache | None = None) -> int:
        """What the version keeps for its batch; `batch_buffers` of the version table names the three layouts."""
        batch, session = self.settings.max_batch_size, self._session(kv)
        hidden, rows = self.text.hidden_size, self.sharding.head_rows(self.text.vocab_size)
        layout = self.rules.batch_buffers
        shared = (
            batch * hidden * _HALF_BYTES
            + 8192 * batch
            + 8 * (batch * ceil_div(session, self.rules.block_tokens) + 1)
            + 4 * self.max_step_tokens
        )
        match layout:
            case BatchBuffers.PHASES:
                return self._phases_bytes(batch, rows)
            case BatchBuffers.SYMMETRIC:
                exchanged = (self.max_step_tokens * hidden + batch * rows) * _HALF_BYTES
                return shared + exchanged + 20 * batch * session + 4 * batch * rows
            case BatchBuffers.DECODER:
                step = self.rules.hidden_tokens.of(session_tokens=session, step_tokens=self.max_step_tokens)
                states = 4 * (step - self.max_step_tokens) + (2 * step + batch) * hidden * _HALF_BYTES
                return shared + states + 24 * batch * session + 8 * batch * rows
            case _:
                assert_never(layout)

    def _phases_bytes(self, batch: int, rows: int) -> int:
        """The newer engine's buffers, what ranks exchange, and one attention output of a mixture of experts
        (`tmp_attn_`, `unified_attention_layer.cc`, v0.12.0 and v0.14.0).
        """
        size = self._batch_buffer_bytes()
        if self.parallelism.num_ranks > 1:
            size += max(self.max_step_tokens * self.text.hidden_size, batch * rows) * _HALF_BYTES
        sparse = [group for group in self.text.layer_groups if routed_experts(group.mlp) is not None]
        widths = [on_rank(group.attention, self.parallelism).output_width for group in sparse]
        return size + self.max_step_tokens * max(widths, default=0) * _HALF_BYTES

    def _hidden_states(self) -> int:
        """From 0.8 to 0.11 one of the two lies among the batch buffers, whatever the tp."""
        return 1 if self.rules.batch_buffers is BatchBuffers.SYMMETRIC else super()._hidden_states()

    def _forward_parts(self, tokens: int, context_tokens: int) -> list[tuple[str, int]]:
        """From 0.8 a step's buffers come from a pool, as in newer engines; before, each layer kept its own."""
        if self.rules.batch_buffers is not BatchBuffers.DECODER:
            return super()._forward_parts(tokens, context_tokens)
        return list(self._kept_parts(tokens, max(tokens, context_tokens)))

    def _kept_parts(self, tokens: int, context_tokens: int) -> Iterable[tuple[str, int]]:
        ranks = [on_rank(group.attention, self.parallelism) for group in self.text.layer_groups]
        rank = max(ranks, key=lambda rank: rank.qkv_width)
        yield "qkv", tokens * rank.qkv_width * _HALF_BYTES
        yield "attention output", tokens * rank.output_width * _HALF_BYTES
        yield "flattened keys and values", rank.cached_width * (context_tokens + 64) * _HALF_BYTES
        yield "mlp", max(self._kept_mlp_bytes(group.mlp, tokens) for group in self.text.layer_groups)
        yield "sampling", 8 * self.text.vocab_size

    def _kept_mlp_bytes(self, mlp: Mlp, tokens: int) -> int:
        """Gate and up; of experts (from 0.6.4) also what they give back, one row for each token and expert
        (`inout_buf_`, `moe_ffn_layer.cc`, v0.7.3).
        """
        tp = self.parallelism.tp
        match mlp:
            case DenseMlp():
                return 2 * tokens * mlp.intermediate_size // tp * _HALF_BYTES
            case MoeMlp():
                width = 2 * mlp.expert_intermediate_size // tp + self.text.hidden_size
                return tokens * mlp.num_experts_per_tok * width * _HALF_BYTES
            case _:
                assert_never(mlp)

    def load_staging(self) -> Term:
        """torch's temporaries on the first GPU: one vocabulary matrix at a time, or one layer's tensors."""
        table = self.text.vocab_size * self.text.hidden_size * _HALF_BYTES if self.rank == 0 else 0
        return Term(
            "load_staging",
            table,
            0,
            2 * table,
            Evidence("assumed", "read in the source of 0.5.3, not measured"),
            f"one vocabulary matrix, {self.text.vocab_size} x {self.text.hidden_size} x 2",
            "tensors on their way into the engine",
        )


def _page_rounding(allocation: Allocation) -> int:
    if allocation.size_bytes < MIB:
        return 0
    return (round_up(allocation.size_bytes, _DRIVER_PAGE_BYTES) - allocation.size_bytes) * allocation.num_allocations
