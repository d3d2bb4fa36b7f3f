"""TurboMind from 0.15: one KV region cut into slabs, free memory read before the buffers of batch and step.

Every allocation below was read off a trace of LMDeploy 0.18.0 on an H200 (docs/memory-model.md); the names and orders
are those of the public source of 0.16.0 (`src/turbomind/`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cached_property

from planner.engine.base import Deployment
from planner.engine.memo import once_per_weights
from planner.engine.turbomind import forward, warmup
from planner.engine.turbomind.batch import batch_buffers
from planner.engine.turbomind.conversion import Leftover, Room, conversion_leftover
from planner.engine.turbomind.formats import Format
from planner.engine.turbomind.loading import staging_bytes
from planner.hardware import overhead
from planner.kinds import EngineName, assert_never
from planner.lmdeploy.evidence import traced
from planner.lmdeploy.versions import native_vision, turbomind_rules
from planner.lmdeploy.words import FusedSilu, IntermediatePadding, Subject
from planner.memory import kv_cache, weights
from planner.memory.pool import aligned, reserved
from planner.memory.terms import FORMULA, Evidence, KvCache, Term, exact
from planner.memory.weights import Allocation, Sharding
from planner.model.dtypes import DType
from planner.units import MIB, format_bytes, round_up

_HALF_BYTES = 2
_RANDOM_STATE_BYTES = 2 * MIB
"""196,608 bytes by cudaMalloc, which hands out 2 MiB."""
_ASSUMED_L2_BYTES = 50 * MIB
_MAX_L2_BYTES = 130 * MIB
"""For a GPU whose L2 cache is not known: the catalog's cards have 2 to 128 MiB, an H100 50."""


class Turbomind:
    """TurboMind's memory on one GPU, from 0.15."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.settings = deployment.settings
        self.spec = deployment.spec
        self.text = deployment.spec.text
        self.rules = turbomind_rules(self.settings.lmdeploy.rules)
        self.quantization = self.settings.quantization
        tp = self.settings.tp
        self.sharding = Sharding(
            tp=tp,
            embedding_sharded=self.rules.embedding_sharded,
            lm_head_sharded=self.rules.lm_head_sharded,
            vocab_multiple=self.rules.vocab_multiple,
            intermediate_multiple=self._intermediate_multiple(),
        )
        self.host = overhead.find_host(deployment.gpu, EngineName.TURBOMIND, self.settings.lmdeploy.version)
        step = self.settings.max_prefill_token_num + self.settings.max_batch_size
        self.max_step_tokens = round_up(step, tp)

    @property
    def weights_key(self) -> Hashable:
        """Everything that the bytes of the weights follow from."""
        version, capability = self.settings.lmdeploy.rules, self.deployment.gpu.compute_capability
        return type(self), self.spec, self.quantization, self.sharding, version, capability

    def _intermediate_multiple(self) -> int:
        """Padding of an MLP's intermediate size; 1 for none."""
        padding = self.rules.intermediate_padding
        match padding:
            case IntermediatePadding.NONE:
                return 1
            case IntermediatePadding.GROUP_TP_ONLY:
                if self.settings.tp == 1:
                    return 1
            case IntermediatePadding.GROUP | IntermediatePadding.PLAN:
                pass
            case _:
                assert_never(padding)
        group = self.rules.dense_group
        if self.quantization is not None:
            group = max(group, self.quantization.group_size)
        return group

    # --- before the KV cache -------------------------------------------------------------------------------------

    def before_kv(self) -> tuple[Term, ...]:
        """Context, code, weights, vision tower, what the pool rounds up, and NCCL."""
        text_bytes, vision_bytes = self.weights_bytes()
        pool_bytes = reserved(self._pool_used_bytes())
        terms = [
            self.host.cuda_context,
            self.host.kernel_code,
            exact("weights", text_bytes, self._weights_formula(text_bytes), "language model, both vocabulary matrices"),
        ]
        if vision_bytes:
            terms.append(
                exact("vision_tower", vision_bytes, self._vision_formula(vision_bytes), "vision tower and projector")
            )
        terms.append(
            exact(
                "pool_rounding",
                pool_bytes - text_bytes - vision_bytes,
                "weights aligned to 512 bytes and their pool to pages of 32 MiB",
                "ends of allocations and of the pool's last page",
                self._traced(Subject.POOLS),
            )
        )
        if self._workspace_first:
            size = self._workspace_growth()
            terms.append(
                exact(
                    "workspaces",
                    size,
                    f"{format_bytes(self.rules.gemm_workspace_bytes)} behind the weights (pool grows by "
                    f"{format_bytes(size)})",
                    "matrix-multiply workspace",
                )
            )
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

    def _workspace_growth(self) -> int:
        """What the GEMM workspace adds to the weights' pool."""
        used = self._pool_used_bytes()
        return reserved(used + aligned(self.rules.gemm_workspace_bytes)) - reserved(used)

    def _communicator(self) -> tuple[Term, Term] | None:
        return overhead.communicator(
            self.settings.tp, self.deployment.gpu, EngineName.TURBOMIND, self.settings.lmdeploy.version
        )

    @once_per_weights
    def weights_bytes(self) -> tuple[int, int]:
        """Bytes of the language model's and of the vision tower's tensors on one rank."""
        text = sum(a.total_bytes for a in self.text_allocations())
        return text, sum(a.total_bytes for a in self.vision_allocations())

    def text_allocations(self) -> Iterable[Allocation]:
        """The language model's weights on one rank as the engine allocates them."""
        yield from weights.text_plain(self.text, self.sharding)
        kept = self._format
        for linear in weights.text_linears(self.text, self.quantization, self.sharding):
            if kept is None:
                yield weights.plain_linear(linear)
            else:
                yield from kept.allocations(linear, self.text.names)

    def vision_allocations(self) -> Iterable[Allocation]:
        """The vision tower's weights on one rank; empty for a text model.

        Native towers are cut by tensor parallelism; others run in PyTorch, whole, on the first GPU, in fp16.
        """
        tower = self.spec.vision
        if tower is None:
            return
        tp = self.settings.tp if native_vision(self.spec.architecture, self.settings.lmdeploy.rules) else 1
        yield from weights.vision_plain(tower, tp)
        for linear in weights.vision_linears(tower, tp):
            yield weights.plain_linear(linear)

    @cached_property
    def _format(self) -> Format | None:
        """How quantized linears are kept; None for a 16-bit model."""
        if self.quantization is None:
            return None
        capability, group_size = self.deployment.gpu.compute_capability, self.quantization.group_size
        if capability == 90 and self.rules.int4_sm90_group:
            group_size = min(group_size, self.rules.int4_sm90_group)
        native_fp8 = self.quantization.method == "fp8" and capability == self.rules.fp8_native_sm
        return Format(self.quantization, group_size, native_fp8)

    def transient(self) -> Term | None:
        """What converting the weights leaves charged when the KV cache is sized."""
        leftover = self._leftover()
        return leftover.term if leftover is not None else None

    @once_per_weights
    def _leftover(self) -> Leftover | None:
        head = next(a for a in weights.text_plain(self.text, self.sharding) if a.what == "output head")
        kept, linears = self._format, weights.text_linears(self.text, self.quantization, self.sharding)
        return conversion_leftover(
            (linear for linear in linears if kept is None or kept.packs(linear, self.text.names)),
            self.quantization,
            kept.group_size if kept else 0,
            Room(self._pool_used_bytes(), head.aligned_bytes),
            self.deployment.gpu.compute_capability,
            self._traced,
        )

    # --- the KV cache --------------------------------------------------------------------------------------------

    def kv_reserve_bytes(self) -> int:
        """Nothing: the ratio is a share of all that is free."""
        return 0

    def kv_cache(self, free_bytes: int) -> KvCache:
        """One region of the ratio's share of free memory, cut into slabs."""
        settings, rules = self.settings, self.rules
        budget = kv_cache.share_of(free_bytes, settings.cache_max_entry_count)
        block = kv_cache.block_bytes(self.text, settings.quant_policy, rules.block_tokens, settings.tp)
        formula = (
            f"{settings.cache_max_entry_count:g} of the {format_bytes(free_bytes)} free; a block is "
            + kv_cache.block_formula(self.text, settings.quant_policy, rules.block_tokens, settings.tp)
        )
        return kv_cache.cut_into_slabs(
            budget, block, rules.block_tokens, rules.slab_fill, rules.slab_max_bytes, formula
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
            self._gemm_workspace(),
            self._forward_buffers(kv),
            self.host.late_code,
        ]
        if self.settings.tp > 1:
            nccl = self._communicator()
            assert nccl is not None
            terms += [self._symmetric_buffer(), nccl[1]]
        return tuple(term for term in terms if term.high_bytes)

    def _batch_buffer_bytes(self) -> int:
        """What the buffers beside the KV region take of its pool."""
        buffers = batch_buffers(
            self.text,
            tp=self.settings.tp,
            batch=self.settings.max_batch_size,
            session_tokens=self.settings.session_len,
            step_tokens=self.max_step_tokens,
            block_tokens=self.rules.block_tokens,
        )
        return sum(aligned(size) * count for size, count in buffers)

    @once_per_weights
    def _pool_used_bytes(self) -> int:
        """What the weights take of their pool."""
        return sum(a.aligned_bytes for a in (*self.text_allocations(), *self.vision_allocations()))

    def reused_bytes(self, transient_bytes: int) -> int:
        """The pages of the leftover that the GEMM workspace keeps: more than usual of more than usual."""
        leftover = self._leftover()
        if leftover is None or self._workspace_first:
            return 0
        if transient_bytes <= leftover.term.size_bytes:
            return min(transient_bytes, leftover.kept_bytes)
        return min(transient_bytes, leftover.kept_high_bytes)

    def _kept_bytes(self) -> tuple[int, int, int]:
        """What the GEMM workspace adds to the weights' pool once conversion's leftover is given back, and its band."""
        leftover = self._leftover()
        if leftover is None:
            return (self._workspace_growth(),) * 3
        return leftover.kept_bytes, leftover.kept_low_bytes, leftover.kept_high_bytes

    def _gemm_workspace(self) -> Term:
        if self._workspace_first:
            kept, text = (0, 0, 0), ""
        else:
            kept = self._kept_bytes()
            workspace = format_bytes(aligned(self.rules.gemm_workspace_bytes))
            text = f"{workspace} behind the weights (pool grows by {format_bytes(kept[0])}) + "
        l2_bytes = self.deployment.gpu.l2_cache_bytes
        flush_bytes = _ASSUMED_L2_BYTES if l2_bytes is None else l2_bytes
        size, low, high = (grown + flush_bytes + _RANDOM_STATE_BYTES for grown in kept)
        evidence = self._traced(Subject.POOLS)
        if l2_bytes is None:
            low, high = low - flush_bytes, high - flush_bytes + _MAX_L2_BYTES
            evidence = Evidence("assumed", "the L2 cache of this GPU is not known")
        return Term(
            "gemm_workspace",
            size,
            low,
            high,
            evidence,
            f"{text}{format_bytes(flush_bytes)} to flush the L2 cache while tuning + "
            f"{format_bytes(_RANDOM_STATE_BYTES)}",
            "matrix-multiply workspace and tuner",
        )

    def _forward_buffers(self, kv: KvCache) -> Term:
        """The executor's pool after warm-up; under load it can grow to that of a full step."""
        tokens = warmup.longest(self.max_step_tokens, self.settings.session_len, kv.tokens)
        parts = self._forward_parts(tokens, 0)
        size = reserved(forward.step_bytes(parts))
        full = reserved(self.forward_bytes(self.max_step_tokens, self._longest(kv)))
        sampling = 5 * 4 * self.settings.max_batch_size * self.text.vocab_size
        high = max(size, full) + reserved(sampling) + self.host.first_request_bytes
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
        dense, experts = self._fused()
        return forward.Step(
            tokens,
            max(tokens, context_tokens),
            self.settings.tp,
            self._hidden_states(),
            fused_dense=dense,
            fused_experts=experts,
            fp8=self._native_fp8,
            warming_up=not context_tokens,
        )

    def _padded(self, size: int) -> int:
        """An MLP's intermediate size on one rank."""
        return weights.pad_intermediate(size, self.sharding) // self.settings.tp

    def _hidden_states(self) -> int:
        """The residual and what the layers work on; the latter lies in the exchange buffer where there is one
        (`models/llama/unified_decoder.cc`, Forward, 0.12.0 to 0.16.0).
        """
        return 2 if self.settings.tp == 1 else 1

    def _fused(self) -> tuple[bool, bool]:
        """Whether dense MLPs and experts apply their activation while they multiply."""
        rule, capability = self.rules.fused_silu, self.deployment.gpu.compute_capability
        if self.quantization is None:
            # cuBLAS multiplies experts from 10.0 on (`builders/ffn.py`, _should_fuse_silu, 0.15.0 and 0.16.0).
            dense = rule is FusedSilu.BF16_SM90 and capability == 90 and self.settings.dtype is DType.BF16
            return dense, capability < 100
        match rule:
            case FusedSilu.INT4_OR_FP8_WEIGHTS:
                fused = not self._native_fp8
            case FusedSilu.BF16_SM90 | FusedSilu.QUANTIZED:
                fused = True
            case _:
                assert_never(rule)
        return fused, fused

    @cached_property
    def _native_fp8(self) -> bool:
        return self._format is not None and self._format.native_fp8

    def _symmetric_buffer(self) -> Term:
        """What ranks exchange: hidden states of a step or logits of a batch (LanguageModel, symm_buf_)."""
        step_bytes = self.max_step_tokens * self.text.hidden_size * _HALF_BYTES
        logits_bytes = self.settings.max_batch_size * weights.head_rows(self.text, self.sharding) * _HALF_BYTES
        return exact(
            "exchange_buffer",
            round_up(max(step_bytes, logits_bytes), 2 * MIB),
            f"max({self.max_step_tokens} x {self.text.hidden_size}, {self.settings.max_batch_size} x vocabulary) x 2",
            "hidden states and logits exchanged by the ranks",
            FORMULA,
        )

    # --- while loading -------------------------------------------------------------------------------------------

    @once_per_weights
    def load_staging(self) -> Term:
        """torch's cache while the loader fills the weights; given back before free memory is read."""
        size = staging_bytes(self.text, self.quantization, self.settings.tp)
        return exact(
            "load_staging",
            size,
            "embedding + output head as read and transposed, or a layer's tensors where those are larger",
            "tensors on their way into the engine",
            self._traced(Subject.POOLS),
        )

    def _weights_formula(self, size: int) -> str:
        what = "16-bit" if self.quantization is None else f"{self.quantization.method} {self.quantization.bits}-bit"
        tp = f" / tp {self.settings.tp}" if self.settings.tp > 1 else ""
        return f"{what} linears{tp} + 2 x {self.text.vocab_size} x {self.text.hidden_size} x 2 + norms = {size} bytes"

    def _vision_formula(self, size: int) -> str:
        tower = self.spec.vision
        assert tower is not None
        return f"{tower.num_layers} layers of {tower.hidden_size} x {tower.intermediate_size}, 16-bit = {size} bytes"
