"""LMDeploy's PyTorch engine, 0.18.0: blocks from free memory less a runtime reserve, CUDA graphs in what is left.

Formulas from `lmdeploy/pytorch/engine/executor/base.py`, `engine/cache_engine/` and `backends/cuda/graph_runner/`.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.data import read_toml
from planner.engine import host
from planner.engine.base import Deployment
from planner.engine.versions import band
from planner.errors import UnsupportedModelError
from planner.memory import weights
from planner.memory.kv_cache import kv_heads_per_rank
from planner.memory.terms import FORMULA, Evidence, KvCache, Term, exact
from planner.memory.weights import Allocation, Sharding
from planner.model.spec import MoeMlp
from planner.units import MIB, ceil_div, format_bytes, round_up

_HALF_BYTES = 2
_TORCH_SEGMENT_BYTES = 2 * MIB


class PytorchEngine:
    """The PyTorch engine's memory on one GPU."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.settings = deployment.settings
        self.spec = deployment.spec
        self.text = deployment.spec.text
        table = read_toml("lmdeploy.toml")["pytorch"]
        version = self.settings.lmdeploy.rules
        self.budget = band(table["kv_budget"], version)
        self.layout = band(table["kv_layout"], version)
        self.graphs = band(table["cuda_graphs"], version)
        self.host = host.find_host(deployment.gpu, "pytorch")
        self.quantization = self.settings.quantization
        moe = any(isinstance(group.mlp, MoeMlp) for group in self.text.layer_groups)
        if self.quantization is not None:
            if self.quantization.method in ("awq", "gptq") and moe:
                raise UnsupportedModelError(
                    "the PyTorch engine does not serve AWQ experts", "Use --engine turbomind or --weights as-is"
                )
            if self.quantization.method == "gptq":
                raise UnsupportedModelError("the PyTorch engine does not serve GPTQ", "Use --engine turbomind")
        # Vocabulary matrices stay whole on every rank for the families that lmplan reads.
        self.sharding = Sharding(self.settings.tp, False, False, 1, 1)

    def before_kv(self) -> tuple[Term, ...]:
        """Context, code, weights and vision tower; free memory is read behind them."""
        text = list(self.text_allocations())
        vision = list(self._vision())
        text_bytes = sum(a.total_bytes for a in text)
        vision_bytes = sum(a.total_bytes for a in vision)
        terms = [
            self.host.cuda_context,
            self.host.kernel_code,
            exact("weights", text_bytes, f"16-bit and packed tensors = {text_bytes} bytes", "language model"),
        ]
        if vision:
            terms.append(exact("vision_tower", vision_bytes, f"16-bit = {vision_bytes} bytes", "vision tower"))
        nccl = host.communicator(self.settings.tp, self.deployment.gpu)
        if nccl is not None:
            terms.append(nccl)
        return tuple(terms)

    def text_allocations(self) -> Iterable[Allocation]:
        """The language model's tensors on one rank; a tied head is the embedding itself."""
        for allocation in weights.text_plain(self.text, self.sharding):
            if allocation.what == "output head" and self.text.tie_word_embeddings:
                continue
            yield allocation
        for linear in weights.text_linears(self.text, self.quantization, self.sharding):
            if not linear.quantized or self.quantization is None:
                yield weights.plain_linear(linear)
                continue
            num_in, num_out, count = linear.num_in, linear.num_out, linear.count
            size = self.quantization.group_size
            if self.quantization.method == "fp8":
                yield Allocation(linear.what, num_in * num_out, count)
                yield Allocation(linear.what, 4 * ceil_div(num_in, size) * ceil_div(num_out, size), count)
                continue
            groups = ceil_div(num_in, size) * num_out
            yield Allocation(linear.what, num_in * num_out // 2, count)
            yield Allocation(f"{linear.what} scales", _HALF_BYTES * groups, count)
            yield Allocation(f"{linear.what} zeros", groups // 2, count)

    def _vision(self) -> Iterable[Allocation]:
        tower = self.spec.vision
        if tower is None:
            return
        yield from weights.vision_plain(tower, self.settings.tp)
        for linear in weights.vision_linears(tower, self.settings.tp):
            yield weights.plain_linear(linear)

    def kv_reserve_bytes(self) -> int:
        """What the engine sets aside for logits before it sizes the KV cache."""
        tokens = self.settings.max_prefill_token_num + 2 * self.settings.max_batch_size
        return tokens * self.text.vocab_size * int(self.budget["vocab_element_bytes"])

    def block_bytes(self) -> int:
        """One block on one rank: each tensor of a layer aligned to 256 bytes."""
        policy = next(p for p in self.layout["policies"] if p["quant_policy"] == self.settings.quant_policy)
        tokens, align = self.budget["block_tokens"], self.budget["tensor_alignment"]
        total = 0
        for group in self.text.layer_groups:
            attention = group.attention
            slots = tokens * kv_heads_per_rank(attention.num_kv_heads, self.settings.tp)
            layer = 0
            for width, extra in ((policy["k"], policy["k_extra"]), (policy["v"], policy["v_extra"])):
                layer += round_up(int(slots * attention.head_dim * width), align)
                layer += round_up(slots * extra, align)
            total += layer * len(group.layers)
        return total

    def transient(self) -> Term | None:
        """Nothing: what loading took is given back before free memory is read."""
        return None

    def kv_cache(self, free_bytes: int) -> KvCache:
        """int((free - reserve) x ratio) // block bytes; one block is never used."""
        reserve = self.kv_reserve_bytes()
        share = int(max(free_bytes - reserve, 0) * self.settings.cache_max_entry_count)
        block = self.block_bytes()
        blocks = share // block
        if blocks <= self.budget["min_blocks_hard"]:
            blocks = 0
        tokens = max(blocks - self.budget["reserved_blocks"], 0) * self.budget["block_tokens"]
        formula = (
            f"{self.settings.cache_max_entry_count:g} of ({format_bytes(free_bytes)} free - {format_bytes(reserve)} "
            f"reserve) in blocks of {block} bytes"
        )
        return KvCache(blocks * block, self.budget["block_tokens"], block, blocks, tokens, formula)

    def after_kv(self, kv: KvCache) -> tuple[Term, ...]:
        """CUDA graphs and their block tables; activations come with load."""
        sizes = self.capture_sizes()
        tables = sum(int(self.graphs["block_table_element_bytes"]) * size * kv.blocks for size in sizes)
        reserve = self.kv_reserve_bytes()
        return (
            Term(
                "cuda_graphs",
                round_up(tables, _TORCH_SEGMENT_BYTES),
                0,
                round_up(tables, _TORCH_SEGMENT_BYTES) + reserve,
                FORMULA,
                f"block tables of {len(sizes)} captured batch sizes x {kv.blocks} blocks x 4",
                "block tables of the captured graphs; activations under load at the high end",
            ),
        )

    def capture_sizes(self) -> list[int]:
        """Batch sizes that are captured: powers of two, then steps, then the largest."""
        batch, limit, step = self.settings.max_batch_size, self.graphs["powers_of_two_up_to"], self.graphs["step"]
        sizes = {1 << n for n in range(limit.bit_length()) if 1 << n <= min(limit, batch)}
        sizes |= set(range(2 * step, batch + 1, step)) | {batch}
        return sorted(sizes)

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
