"""LMDeploy's PyTorch engine, 0.18.0: blocks from free memory less a runtime reserve, CUDA graphs in what is left.

Formulas from `lmdeploy/pytorch/engine/executor/base.py`, `engine/cache_engine/` and `backends/cuda/graph_runner/`.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.engine.base import Deployment
from planner.engine.pytorch.weights import WeightsKey, weights_of
from planner.hardware import overhead
from planner.kinds import EngineName
from planner.lmdeploy.evidence import traced
from planner.lmdeploy.versions import pytorch_rules
from planner.lmdeploy.words import Subject
from planner.memory.attention import on_rank
from planner.memory.capacity import KvCache
from planner.memory.mlp import widest_intermediate
from planner.memory.parallelism import Sharding
from planner.memory.terms import Evidence, Term, exact
from planner.memory.weights import Allocation
from planner.units import MIB, format_bytes, round_up

_HALF_BYTES = 2
_TORCH_SEGMENT_BYTES = 2 * MIB


class PytorchEngine:
    """The PyTorch engine's memory on one rank's GPU; all ranks hold the same."""

    def __init__(self, deployment: Deployment, rank: int = 0) -> None:
        self.deployment = deployment
        self.rank = rank
        self.settings = deployment.settings
        self.spec = deployment.spec
        self.text = deployment.spec.text
        self.rules = pytorch_rules(self.settings.lmdeploy.rules)
        self.host = overhead.find_host(deployment.gpu, EngineName.PYTORCH, self.settings.lmdeploy.version)
        self.parallelism = self.settings.parallelism
        # Vocabulary matrices stay whole on every rank for the families that lmplan reads.
        self.sharding = Sharding(self.parallelism)
        capability = deployment.gpu.compute_capability
        self.weights = weights_of(
            WeightsKey(self.spec, self.settings.quantization, self.sharding, self.settings.lmdeploy.rules, capability)
        )

    def before_kv(self) -> tuple[Term, ...]:
        """Context, code, weights and vision tower; free memory is read behind them."""
        text_bytes, vision_bytes = self.weights.text_bytes, self.weights.vision_bytes
        terms = [
            self.host.cuda_context,
            self.host.kernel_code,
            exact("weights", text_bytes, f"16-bit and packed tensors = {text_bytes} bytes", "language model"),
        ]
        if vision_bytes:
            terms.append(exact("vision_tower", vision_bytes, f"16-bit = {vision_bytes} bytes", "vision tower"))
        terms.append(
            exact(
                "pool_rounding",
                self.weights.reserved_bytes - text_bytes - vision_bytes,
                "tensors below 10 MiB share segments of 20 MiB, larger ones are rounded to 2 MiB",
                "ends of torch's segments",
            )
        )
        packed = self._packed_copy()
        if packed is not None:
            terms.append(packed)
        nccl = overhead.communicator(
            self.settings.tp, self.deployment.gpu, EngineName.PYTORCH, self.settings.lmdeploy.version
        )
        if nccl is not None:
            terms.append(nccl[0])
        return tuple(terms)

    def _packed_copy(self) -> Term | None:
        """AWQ linears are served by TurboMind's kernels, which keep a packed copy in a pool of their own."""
        copy = self.weights.packed_copy_bytes
        if not copy:
            return None
        capability = self.deployment.gpu.compute_capability
        evidence = traced(Subject.PACKED_COPY, EngineName.PYTORCH, self.settings.lmdeploy.rules, capability)
        code = overhead.turbomind_modules_bytes()
        return Term(
            "packed_copy",
            copy + code,
            0 if evidence.kind == "assumed" else copy + code,
            copy + code,
            evidence,
            f"packed linears with their scales {format_bytes(copy)} in pages of 32 MiB + kernels {format_bytes(code)}",
            "TurboMind's packed copy of the 4-bit linears",
        )

    def text_allocations(self) -> Iterable[Allocation]:
        """The language model's tensors on this rank."""
        return self.weights.text_allocations()

    def kv_reserve_bytes(self) -> int:
        """What the engine sets aside for logits before it sizes the KV cache."""
        tokens = self.settings.max_prefill_token_num + 2 * self.settings.max_batch_size
        return tokens * self.text.vocab_size * self.rules.vocab_element_bytes

    def block_bytes(self) -> int:
        """One block on one rank: each tensor of a layer aligned to 256 bytes."""
        policy = next(p for p in self.rules.policies if p.quant_policy == self.settings.quant_policy)
        tokens, align = self.rules.block_tokens, self.rules.tensor_alignment_bytes
        total = 0
        for group in self.text.layer_groups:
            rank = on_rank(group.attention, self.parallelism)
            layer = 0
            for cached, width, extra in (
                (rank.keys, policy.k, policy.k_extra),
                (rank.values, policy.v, policy.v_extra),
            ):
                slots = tokens * cached.num_heads
                layer += round_up(int(slots * cached.width * width), align)
                layer += round_up(slots * extra, align)
            total += layer * len(group.layers)
        return total

    def transient(self) -> Term | None:
        """Nothing: what loading took is given back before free memory is read."""
        return None

    def reused_bytes(self, transient_bytes: int) -> int:
        """Nothing."""
        return 0

    def kv_cache(self, free_bytes: int) -> KvCache:
        """int((free - reserve) x ratio) // block bytes; one block is never used."""
        reserve = self.kv_reserve_bytes()
        share = int(max(free_bytes - reserve, 0) * self.settings.cache_max_entry_count)
        block = self.block_bytes()
        blocks = share // block
        if blocks <= self.rules.min_blocks_hard:
            blocks = 0
        tokens = max(blocks - self.rules.reserved_blocks, 0) * self.rules.block_tokens
        formula = (
            f"{self.settings.cache_max_entry_count:g} of ({format_bytes(free_bytes)} free - {format_bytes(reserve)} "
            f"reserve) in blocks of {block} bytes"
        )
        return KvCache(blocks * block, self.rules.block_tokens, block, blocks, tokens, formula)

    def after_kv(self, kv: KvCache) -> tuple[Term, ...]:
        """CUDA graphs with their block tables; activations come with load."""
        sizes = self.capture_sizes()
        tables = sum(self.rules.block_table_element_bytes * size * kv.blocks for size in sizes)
        size = round_up(tables, _TORCH_SEGMENT_BYTES) + self.host.late_code.size_bytes
        widest = max(widest_intermediate(group.mlp) for group in self.text.layer_groups)
        # Activations of a full prefill (gate, up and their product, eight hidden states) and a sampled batch (logits in
        # 32 bits, sorted, their 64-bit indices, probabilities). With the logits' reserve and the first request's code
        # this bounds what nine runs on an H200 grew by under load (0.6 to 2.1 GiB).
        step = self.settings.max_prefill_token_num * (3 * widest + 8 * self.text.hidden_size) * _HALF_BYTES
        sampling = 20 * self.settings.max_batch_size * self.text.vocab_size
        return (
            Term(
                "cuda_graphs",
                size,
                size,
                size + self.host.first_request_bytes + self.kv_reserve_bytes() + step + sampling,
                self.host.kernel_code.evidence,
                f"{format_bytes(self.host.late_code.size_bytes)} of graphs and kernels + block tables of {len(sizes)} "
                f"captured batch sizes x {kv.blocks} blocks x 4",
                "captured graphs; activations and logits under load at the high end",
            ),
        )

    def capture_sizes(self) -> list[int]:
        """Batch sizes that are captured: powers of two, then steps, then the largest."""
        batch, limit, step = self.settings.max_batch_size, self.rules.powers_of_two_up_to, self.rules.step
        sizes = {1 << n for n in range(limit.bit_length()) if 1 << n <= min(limit, batch)}
        sizes |= set(range(2 * step, batch + 1, step)) | {batch}
        return sorted(sizes)

    def stalls_at_tokens(self, kv: KvCache) -> int | None:
        """None: batches are captured, no requests sent."""
        return None

    def load_staging(self) -> Term:
        """Both vocabulary matrices of a tied model exist while it loads."""
        size = self.text.vocab_size * self.text.hidden_size * _HALF_BYTES if self.text.tie_word_embeddings else 0
        return exact(
            "load_staging",
            size,
            format_bytes(size),
            "tensors given back after loading",
            Evidence("assumed", "read in the source"),
        )
