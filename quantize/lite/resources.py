"""What a run itself takes: GPU and host memory at their peaks, disk, time; and the batch size that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from planner.model.inventory import inventory
from planner.model.layers import routed_experts
from planner.model.spec import ModelSpec, TextModel
from planner.model.tensors import TensorGroup, size_bytes
from planner.units import GIB, MIB, ceil_div
from quantize.checkpoint.expected import ExpectedCheckpoint
from quantize.lite.calibration_memory import calibration_peak
from quantize.lite.events import Phase
from quantize.recipe.model import Recipe

# NVML shows so much for a process before it allocates anything (one H200, driver 580).
CUDA_CONTEXT_BYTES: Final = 617 * MIB
# cuBLAS keeps a workspace for its handle on Hopper (32 MiB), and kernels are loaded as they are first used.
_KERNELS_BYTES: Final = 300 * MIB
# Host memory is this much and so many times the 16-bit weights. While weights are read they are there twice, as pages
# of the file and as tensors: a tiny model and drawn Qwen2.5 0.5B and 1.5B took 0.51, 2.21 and 6.12 GiB on a CPU. Layers
# that have been to the GPU come back as copies: Qwen2.5-1.5B and Llama-3.1-8B took 6.95 and 34.8 GiB with an H200.
_HOST_BASE_BYTES: Final = GIB // 2
_HOST_WEIGHT_COPIES: Final = {"cpu": 2.0, "cuda": 2.3}
_LOG_BYTES: Final = 16 * MIB
# Free memory that is left alone when a batch size is chosen: predictions may be a tenth too low.
_MARGIN: Final = 0.9
_AUTO_SIZES: Final = (128, 64, 32, 16, 8, 4, 2, 1)


# "search-scale costs about 30 times more per layer": 20 ratios are tried, each with its own forward.
_SEARCH_FACTOR: Final = 30


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast a device goes through the phases.

    `start_s` is imports, `text_s` reading and cutting the calibration text, `batch_s` what starting a batch in a layer
    costs. Packing loops over output columns in Python, weights and zero points apart, so it costs by the column, and
    on a CPU by the weight.
    """

    start_s: float
    load_gib_s: float
    text_s: float
    flops_per_s: float
    batch_s: float
    smooth_weight_s: float
    pack_column_s: float
    pack_weight_s: float
    save_s: float


_H200: Final = _Speed(12.5, 0.5, 10.0, 1.5e14, 0.0045, 1.6e-9, 6.3e-5, 0.0, 2.0)
_CPU: Final = _Speed(4.0, 1.0, 1.0, 1e11, 0.01, 5e-9, 2e-5, 2e-8, 0.5)


@dataclass(frozen=True, slots=True)
class Needs:
    """Peaks and totals of one run. `gpu_bytes` is 0 for a run on the CPU."""

    gpu_bytes: int
    host_bytes: int
    disk_bytes: int
    phase_seconds: Mapping[Phase, float]

    @property
    def seconds(self) -> float:
        """The whole run."""
        return sum(self.phase_seconds.values())


def predict(
    recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, *, batch_size: int, download_bytes: int
) -> Needs:
    """What the run of `recipe` takes.

    Args:
        recipe: the job.
        spec: the model that is read.
        expected: what it makes.
        batch_size: sequences that a layer takes at once.
        download_bytes: weights that have to be fetched or drawn first.
    """
    weights_bytes = size_bytes(inventory(spec))
    return Needs(
        gpu_bytes=gpu_peak_bytes(recipe, spec, expected, batch_size) if recipe.device == "cuda" else 0,
        host_bytes=_HOST_BASE_BYTES + _host_peak_bytes(recipe, spec.text, batch_size, weights_bytes),
        disk_bytes=expected.file_bytes + _statistics_bytes(expected) + download_bytes + _LOG_BYTES,
        phase_seconds=_phase_seconds(recipe, spec, expected, batch_size, weights_bytes),
    )


def _host_peak_bytes(recipe: Recipe, text: TextModel, batch_size: int, weights_bytes: int) -> int:
    """The peak above the base: while loading, or on a CPU while calibrating, when the file's pages are gone."""
    loading = round(_HOST_WEIGHT_COPIES[recipe.device] * weights_bytes)
    if recipe.device == "cuda" or recipe.calibration.data_free:
        return loading
    return max(loading, weights_bytes + _calibration_bytes(recipe, text, batch_size))


def gpu_peak_bytes(recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, batch_size: int) -> int:
    """Device memory at the peak of a run on the GPU: calibration, or packing where that is more."""
    fixed = CUDA_CONTEXT_BYTES + _KERNELS_BYTES
    packing = _packing_bytes(expected)
    if recipe.calibration.data_free:
        return fixed + packing
    calibrating = _calibration_bytes(recipe, spec.text, batch_size)
    return fixed + max(calibrating, _embedding_bytes(spec.text) + packing)


def auto_batch_size(
    recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, free_gpu_bytes: int | None, free_host_bytes: int
) -> int:
    """The largest power of two, up to the samples, whose run fits nine tenths of the free memory; at least 1."""
    if recipe.calibration.data_free:
        return 1
    for size in _AUTO_SIZES:
        if size > recipe.calibration.samples:
            continue
        needs = predict(recipe, spec, expected, batch_size=size, download_bytes=0)
        fits_gpu = recipe.device == "cpu" or needs.gpu_bytes <= (free_gpu_bytes or 0) * _MARGIN
        if fits_gpu and needs.host_bytes <= free_host_bytes * _MARGIN:
            return size
    return 1


def _calibration_bytes(recipe: Recipe, text: TextModel, batch_size: int) -> int:
    return calibration_peak(
        text,
        samples=recipe.calibration.samples,
        seqlen=recipe.calibration.seqlen,
        batch_size=batch_size,
        search_scale=recipe.search_scale,
        on_gpu=recipe.device == "cuda",
    ).reserved_bytes


def _embedding_bytes(text: TextModel) -> int:
    return text.vocab_size * text.hidden_size * 2


def _packing_bytes(expected: ExpectedCheckpoint) -> int:
    """The largest linear while it is packed.

    Its 16-bit weight, the quantized values in 16 bits, the same as int32 and transposed int32
    (`lite/quantization/modules/linear.py`, from_linear), and the packed words: 2 + 2 + 4 + 4 + 0.5 bytes a weight,
    and two float temporaries of rounding.
    """
    largest = max((group.shape[0] * group.shape[1] for group in expected.quantized), default=0)
    return largest * 16


def _statistics_bytes(expected: ExpectedCheckpoint) -> int:
    """inputs_stats.pth and outputs_stats.pth: five half-precision vectors for each side of each linear."""
    return sum(5 * 2 * (group.shape[0] + group.shape[1]) * group.num_tensors for group in expected.quantized)


def _phase_seconds(
    recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, batch_size: int, weights_bytes: int
) -> dict[Phase, float]:
    """Rough times: good for a bar's proportions and an order of magnitude.

    The GPU's numbers fit Llama-3.1-8B (162 s at batch size 1, 152 s at 8, from a warm file cache) and Qwen2.5-1.5B
    (100, 88 and 78 s at 1, 8 and 128) on an H200, the CPU's drawn Qwen2.5 models on two cores.
    """
    speed = _CPU if recipe.device == "cpu" else _H200
    tokens = 0 if recipe.calibration.data_free else recipe.calibration.samples * recipe.calibration.seqlen
    parameters = sum(group.num_elements for group in expected.quantized)
    active_parameters = sum(_active_elements(group, spec.text) for group in expected.quantized)
    batches = ceil_div(recipe.calibration.samples, batch_size) if tokens else 0
    calibration = (speed.text_s if tokens else 0.0) + 2 * active_parameters * tokens / speed.flops_per_s
    calibration += batches * spec.text.num_layers * speed.batch_s
    if recipe.search_scale:
        calibration *= _SEARCH_FACTOR
    columns = sum(group.shape[0] * group.num_tensors for group in expected.quantized)
    gib = weights_bytes / GIB
    return {
        Phase.LOADING: speed.start_s + speed.load_gib_s * gib,
        Phase.CALIBRATION: calibration,
        Phase.SMOOTHING: parameters * speed.smooth_weight_s,
        Phase.PACKING: columns * speed.pack_column_s + parameters * speed.pack_weight_s,
        Phase.SAVING: speed.save_s + 1.1 * expected.file_bytes / GIB,
    }


def _active_elements(group: TensorGroup, text: TextModel) -> int:
    """Weights of a group that each token meets."""
    alike = next((layers for layers in text.layer_groups if set(group.layers) <= set(layers.layers)), None)
    experts = routed_experts(alike.mlp) if alike is not None else None
    if experts is None or not group.num_experts:
        return group.num_elements
    return group.num_elements * experts.num_experts_per_tok // group.num_experts
