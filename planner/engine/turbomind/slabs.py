"""TurboMind from 0.15: one KV region cut into slabs, free memory read before the buffers of batch and step.

Every allocation below was read off traces of LMDeploy 0.18.0 on an H200 and an H100 (docs/memory-model.md); the names
and orders are those of the public source of 0.16.0 (`src/turbomind/`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from planner.engine.base import Deployment
from planner.engine.turbomind import folding, forward, warmup
from planner.engine.turbomind.batch import batch_buffers, exchange_buffer
from planner.engine.turbomind.fusing import fused_mlps, sharding_of
from planner.engine.turbomind.states import delta_buffers
from planner.engine.turbomind.weights import TurbomindWeights, WeightsKey, weights_of
from planner.engine.turbomind.workspace import first_workspace, gemm_workspace
from planner.hardware import overhead
from planner.hardware.overhead import Host
from planner.kinds import EngineName
from planner.lmdeploy.evidence import traced
from planner.lmdeploy.versions import native_vision, turbomind_rules
from planner.lmdeploy.words import Subject
from planner.memory import kv_cache
from planner.memory.capacity import KvCache
from planner.memory.pool import aligned, reserved
from planner.memory.terms import Evidence, Term, exact
from planner.memory.weights import Allocation
from planner.units import format_bytes, round_up


class Turbomind:
    """TurboMind's memory on one rank's GPU, from 0.15."""

    def __init__(self, deployment: Deployment, rank: int = 0) -> None:
        self.deployment = deployment
        self.rank = rank
        self.settings = deployment.settings
        self.spec = deployment.spec
        self.text = deployment.spec.text
        self.rules = turbomind_rules(self.settings.lmdeploy.rules)
        self.quantization = self.settings.quantization
        self.parallelism = self.settings.parallelism
        self.sharding = sharding_of(self.settings, self.rules)
        step = self.settings.max_prefill_token_num + self.settings.max_batch_size
        self.max_step_tokens = round_up(step, self.parallelism.tp)

    @cached_property
    def host(self) -> Host:
        """What only the host can tell."""
        return overhead.find_host(self.deployment.gpu, EngineName.TURBOMIND, self.settings.lmdeploy.version)

    @cached_property
    def weights(self) -> TurbomindWeights:
        """What follows from the weights alone."""
        version = self.settings.lmdeploy.rules
        # A tower that PyTorch runs is whole on the first GPU.
        holds_tower = self.rank == 0 or native_vision(self.spec.architecture, version)
        capability = self.deployment.gpu.compute_capability
        return weights_of(WeightsKey(self.spec, self.quantization, self.sharding, version, capability, holds_tower))

    # --- before the KV cache -------------------------------------------------------------------------------------

    def before_kv(self) -> tuple[Term, ...]:
        """Context, code, weights, vision tower, what the pool rounds up, and NCCL."""
        text_bytes, vision_bytes = self.weights.text_bytes, self.weights.vision_bytes
        pool_bytes = reserved(self.weights.pool_used_bytes)
        terms = [
            self.host.cuda_context,
            self.host.kernel_code,
            self.weights.text_term(),
        ]
        if vision_bytes:
            terms.append(self.weights.vision_term("vision tower and projector"))
        terms.append(
            exact(
                "pool_rounding",
                pool_bytes - text_bytes - vision_bytes,
                "weights aligned to 512 bytes and their pool to pages of 32 MiB",
                "ends of allocations and of the pool's last page",
                self._traced(Subject.POOLS),
            )
        )
        if self.rank == 0 and folding.is_folded(self.text):
            terms.append(folding.torch_kept(self.text, self._traced(Subject.FOLDING)))
        if self._workspace_first:
            terms.append(first_workspace(self.weights, self.rules))
        nccl = self._communicator()
        if nccl is not None:
            terms.append(nccl[0])
        return tuple(terms)

    def _traced(self, subject: Subject) -> Evidence:
        """Where a formula of this engine was traced."""
        version, capability = self.settings.lmdeploy.rules, self.deployment.gpu.compute_capability
        return traced(subject, EngineName.TURBOMIND, version, capability)

    @property
    def _workspace_first(self) -> bool:
        """Whether the GEMM workspace is there when free memory is read."""
        return self.rules.free_sampled.behind_workspace

    def _communicator(self) -> tuple[Term, Term] | None:
        return overhead.communicator(
            self.settings.tp, self.deployment.gpu, EngineName.TURBOMIND, self.settings.lmdeploy.version
        )

    def text_allocations(self) -> Iterable[Allocation]:
        """The language model's weights on this rank as the engine allocates them."""
        return self.weights.text_allocations()

    def transient(self) -> Term | None:
        """What converting the weights leaves charged when the KV cache is sized."""
        leftover = self.weights.leftover
        return leftover.term if leftover is not None else None

    def reused_bytes(self, transient_bytes: int) -> int:
        """The pages of the leftover that the GEMM workspace keeps: more than usual of more than usual."""
        if self._workspace_first or not transient_bytes:
            return 0
        leftover = self.weights.leftover
        if leftover is None:
            return 0
        if transient_bytes <= leftover.term.size_bytes:
            return min(transient_bytes, leftover.kept_bytes)
        return min(transient_bytes, leftover.kept_high_bytes)

    # --- the KV cache --------------------------------------------------------------------------------------------

    def kv_reserve_bytes(self) -> int:
        """Nothing: the ratio is a share of all that is free."""
        return 0

    def kv_cache(self, free_bytes: int) -> KvCache:
        """One region of the ratio's share of free memory, cut into slabs."""
        settings, rules = self.settings, self.rules
        budget = kv_cache.share_of(free_bytes, settings.cache_max_entry_count)
        block = kv_cache.block_bytes(self.text, settings.quant_policy, rules.block_tokens, self.parallelism)
        formula = (
            f"{settings.cache_max_entry_count:g} of the {format_bytes(free_bytes)} free; a block is "
            + kv_cache.block_formula(self.text, settings.quant_policy, rules.block_tokens, self.parallelism)
        )
        states = kv_cache.state_sizes(self.text, self.parallelism)
        return kv_cache.cut_into_slabs(
            budget, block, rules.block_tokens, rules.slab_fill, rules.slab_max_bytes, formula, states
        )

    # --- after the KV cache --------------------------------------------------------------------------------------

    def after_kv(self, kv: KvCache) -> tuple[Term, ...]:
        """Batch buffers, GEMM workspace, the forward buffers of the longest warm-up, late code."""
        buffers = self._batch_buffer_bytes()
        batch_bytes = reserved(aligned(kv.budget_bytes) + buffers) - kv.budget_bytes
        terms = [
            exact(
                "batch_buffers",
                batch_bytes,
                f"buffers for batch {self.settings.max_batch_size}, session {self.settings.session_len} tokens, "
                f"step {self.max_step_tokens} tokens: {format_bytes(buffers)}, with the KV region in pages of 32 MiB",
                "token ids, block tables, sampling and attention workspace",
                self._traced(Subject.POOLS),
            ),
            gemm_workspace(
                self.weights,
                self.rules,
                self.deployment.gpu,
                self._traced(Subject.POOLS),
                first=self._workspace_first,
            ),
            self._forward_buffers(kv),
            self._delta_buffers(kv),
            self.host.late_code,
        ]
        if self.parallelism.num_ranks > 1:
            nccl = self._communicator()
            assert nccl is not None
            rows = self.sharding.head_rows(self.text.vocab_size)
            exchanged = exchange_buffer(self.text, self.max_step_tokens, self.settings.max_batch_size, rows)
            terms += [exchanged, nccl[1]]
        return tuple(term for term in terms if term.high_bytes)

    def _batch_buffer_bytes(self) -> int:
        """What the buffers beside the KV region take of its pool."""
        buffers = batch_buffers(
            self.text,
            self.parallelism,
            batch=self.settings.max_batch_size,
            session_tokens=self.settings.session_len,
            step_tokens=self.max_step_tokens,
            block_tokens=self.rules.block_tokens,
        )
        return sum(aligned(size) * count for size, count in buffers)

    def _warm_up_tokens(self, kv: KvCache) -> int:
        return warmup.longest(self.max_step_tokens, self.settings.session_len, kv.tokens)

    def _delta_buffers(self, kv: KvCache) -> Term:
        """The pool of gated linear attention; nothing for other models."""
        tokens = self._warm_up_tokens(kv)
        return delta_buffers(self.text, self.parallelism, tokens, self.max_step_tokens, self._traced(Subject.STATES))

    def _forward_buffers(self, kv: KvCache) -> Term:
        """The executor's pool after warm-up; under load it can grow to that of a full step."""
        tokens = self._warm_up_tokens(kv)
        parts = self._forward_parts(tokens, 0)
        size = reserved(forward.step_bytes(parts))
        full = reserved(self.forward_bytes(self.max_step_tokens, self._longest(kv)))
        sampling = 5 * 4 * self.settings.max_batch_size * self.text.vocab_size
        first_request = self.host.first_request_bytes
        if folding.is_folded(self.text):
            first_request += overhead.latent_first_request_bytes()
        high = max(size, full) + reserved(sampling) + first_request
        return Term(
            "forward_buffers",
            size,
            reserved(forward.least_bytes(self.text, self._step(tokens, 0), self._padded)),
            high,
            self._traced(Subject.FORWARD),
            forward.formula(parts),
            f"activations of the longest warm-up request, {tokens} tokens",
        )

    def stalls_at_tokens(self, kv: KvCache) -> int | None:
        """Length of the warm-up request that never gets its turn."""
        if self.rules.shortens_session_len:
            return None
        return warmup.stalls_at(self.max_step_tokens, self.settings.session_len, kv.tokens)

    def _longest(self, kv: KvCache) -> int:
        """Tokens of the longest prompt: each of its chunks attends to all that came before."""
        return min(self.settings.session_len, kv.tokens)

    def forward_bytes(self, tokens: int, context_tokens: int = 0) -> int:
        """Activations of a step of `tokens` tokens whose sequences then hold `context_tokens` or just these."""
        return forward.step_bytes(self._forward_parts(tokens, context_tokens))

    def forward_formula(self, tokens: int) -> str:
        """`forward_bytes` in words and numbers."""
        return forward.formula(self._forward_parts(tokens, 0))

    def _forward_parts(self, tokens: int, context_tokens: int) -> list[tuple[str, int]]:
        return forward.step_parts(self.text, self._step(tokens, context_tokens), self._padded)

    def _step(self, tokens: int, context_tokens: int) -> forward.Step:
        capability = self.deployment.gpu.compute_capability
        native_fp8 = self.weights.format is not None and self.weights.format.native_fp8
        dense, experts = fused_mlps(self.rules.fused_silu, capability, self.settings, native_fp8=native_fp8)
        return forward.Step(
            tokens,
            max(tokens, context_tokens),
            self.parallelism,
            self._hidden_states(),
            fused_dense=dense,
            fused_experts=experts,
            fp8=self.weights.fp8_kinds,
            warming_up=not context_tokens,
        )

    def _padded(self, size: int) -> int:
        """An MLP's intermediate size on one rank."""
        return self.sharding.intermediate(size)

    def _hidden_states(self) -> int:
        """The residual and what the layers work on; the latter lies in the exchange buffer where there is one
        (`models/llama/unified_decoder.cc`, Forward, 0.12.0 to 0.16.0).
        """
        return 2 if self.parallelism.num_ranks == 1 else 1

    # --- while loading -------------------------------------------------------------------------------------------

    def load_staging(self) -> Term:
        """torch's cache while the loader fills the weights; given back before free memory is read."""
        # A segment that torch keeps is counted with what is held.
        size = self.weights.staging_bytes - folding.kept_segment_bytes(self.text) if self.rank == 0 else 0
        return exact(
            "load_staging",
            size,
            "embedding + output head as read and transposed, or a layer's tensors where those are larger",
            "tensors on their way into the engine",
            self._traced(Subject.POOLS),
        )
