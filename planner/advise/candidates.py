"""What a search chooses from: loads, offers of GPUs, options that cost quality or money, and how one is weighed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from planner.hardware.gpu import Gpu
from planner.kinds import WeightsChoice
from planner.lmdeploy.settings import Settings
from planner.memory.capacity import KvCache
from planner.model.spec import ModelSpec

if TYPE_CHECKING:
    from planner.advise.throughput import Speed

QUALITY_ORDER: Final[tuple[tuple[WeightsChoice, int], ...]] = (
    (WeightsChoice.AS_IS, 0),
    (WeightsChoice.AS_IS, 8),
    (WeightsChoice.FP8, 0),
    (WeightsChoice.FP8, 8),
    (WeightsChoice.W4A16, 0),
    (WeightsChoice.W4A16, 8),
    (WeightsChoice.AS_IS, 4),
    (WeightsChoice.FP8, 4),
    (WeightsChoice.W4A16, 4),
)
"""Weights and quant_policy, least loss of quality first: 8-bit KV costs next to nothing, fp8 weights hardly more, 4-bit
weights a little, 4-bit KV more (LMDeploy's docs, `quantization/kv_quant.md` and `w4a16.md`, with their evaluations)."""
TP: Final = (1, 2, 4, 8)
MIN_FP8_CAPABILITY: Final = 89
"""From Ada on the matrix units multiply fp8 (`planner/data/gpus.toml`, peak_fp8_flops_per_s)."""


class Offer(NamedTuple):
    """GPUs of one kind.

    Attributes:
        free_bytes: what is free on each.
        max_gpus: how many may share the model.
        quality_first: they are there anyway, so quality comes before their number.
        least_gpus: as many as the weights take as they are, where a server has more than one; fewer are a last resort.
        neighbours_bytes: what processes that started before may still grow by. The engine may find it free, and must
            leave it; or find it gone, and must serve all the same.
    """

    gpu: Gpu
    free_bytes: int
    max_gpus: int = TP[-1]
    quality_first: bool = False
    least_gpus: int = 1
    neighbours_bytes: int = 0

    def preference(self, option: Option) -> tuple[int, ...]:
        """Less is better. What can be served or made today comes before what somebody else has to publish."""
        if self.quality_first:
            return 0, int(option.has_to_be_found), option.loss, option.tp
        return int(option.tp < self.least_gpus), option.tp, int(option.has_to_be_found), option.loss


class Option(NamedTuple):
    """What costs quality or money: GPUs, weights, KV bits.

    `has_to_be_found` where nobody is known to publish the weights and LMDeploy has no tool that makes them.
    """

    tp: int
    weights: WeightsChoice
    quant_policy: int
    has_to_be_found: bool = False

    @property
    def loss(self) -> int:
        """Its place in the order of quality; 0 loses nothing."""
        return QUALITY_ORDER.index((self.weights, self.quant_policy))

    @property
    def text(self) -> str:
        """``4-bit weights (W4A16 AWQ) and 8-bit KV cache``."""
        return f"{self.weights.in_words} and {self.quant_policy or 16}-bit KV cache"

    def hardware(self, gpu: str) -> str:
        """``one a10``, ``2 a10``."""
        return f"{'one' if self.tp == 1 else self.tp} {gpu}"


class Knobs(NamedTuple):
    """What LMDeploy would set by itself; None leaves it at that."""

    session_len: int | None = None
    max_batch_size: int | None = None
    max_prefill_token_num: int | None = None


class Candidate(NamedTuple):
    """A candidate weighed against the load.

    Attributes:
        users: sessions of the load's length that run at once.
        short_bytes: memory that one GPU lacks for the load; negative is what is left over.
        lack: what is missing, in words; empty when it serves.
        keep_free_bytes: what has to stay free beside the KV cache: buffers at full load, activations of images.
        image_bytes: the part of it that a vision tower's activations take.
        cannot_load: whether the weights alone are too much.
        shared: whether the KV cache leaves part of its room to settings nearer to LMDeploy's defaults.
        speed: at the load, where the load limits it.
    """

    option: Option
    offer: Offer
    settings: Settings
    kv: KvCache
    users: int
    short_bytes: int
    lack: str
    keep_free_bytes: int
    image_bytes: int = 0
    cannot_load: bool = False
    shared: bool = False
    speed: Speed | None = None

    @property
    def serves(self) -> bool:
        """Whether it starts and serves the load with room to grow into full batches."""
        return not self.lack


class Pins(NamedTuple):
    """Settings that the user gave and a search keeps; None is open."""

    tp: int | None = None
    weights: WeightsChoice | None = None
    quant_policy: int | None = None
    cache_max_entry_count: float | None = None
    session_len: int | None = None
    max_batch_size: int | None = None
    max_prefill_token_num: int | None = None


NO_PINS: Final = Pins()


def options_of(spec: ModelSpec, offer: Offer, pins: Pins = NO_PINS, *, fp8_is_there: bool = True) -> tuple[Option, ...]:
    """Every option of an offer that the pins allow, in order of preference.

    Args:
        fp8_is_there: whether fp8 weights are published, or made while the engine loads.
    """
    quality = QUALITY_ORDER
    if spec.quantization is not None:
        quality = tuple(entry for entry in quality if entry[0] is WeightsChoice.AS_IS)
    elif offer.gpu.compute_capability < MIN_FP8_CAPABILITY and pins.weights is None:
        quality = tuple(entry for entry in quality if entry[0] is not WeightsChoice.FP8)
    options = (
        Option(tp, weights, quant_policy, weights is WeightsChoice.FP8 and not fp8_is_there)
        for tp in ((pins.tp,) if pins.tp else TP)
        for weights, quant_policy in quality
        if tp <= offer.max_gpus and weights is (pins.weights or weights)
    )
    kept = (option for option in options if option.quant_policy == _or(pins.quant_policy, option.quant_policy))
    return tuple(sorted(kept, key=offer.preference))


def _or(pinned: int | None, otherwise: int) -> int:
    return otherwise if pinned is None else pinned
