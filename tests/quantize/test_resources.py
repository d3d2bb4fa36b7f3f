"""What a run takes, against what runs took; and the batch size that fits."""

from __future__ import annotations

import pytest

from planner.data import read_json
from planner.model.arch import read_spec
from planner.model.formats import W4A16
from planner.units import GIB
from quantize.checkpoint.expected import expect
from quantize.lite.calibration_memory import calibration_peak
from quantize.lite.resources import auto_batch_size, predict
from quantize.recipe.model import Recipe


def prediction(name, batch_size=1, **values):
    recipe, spec, expected = setting(name, **values)
    return predict(recipe, spec, expected, batch_size=batch_size, download_bytes=0)


def setting(name, **values):
    spec = read_spec(read_json(f"models/{name}.json")["config"], name)
    recipe = Recipe.model_validate({"model": name, "output": "o", **values})
    return recipe, spec, expect(spec, W4A16, spec.dtype)


@pytest.mark.parametrize(
    ("name", "batch_size", "gib"),
    [("llama-3.1-8b", 1, 23.71), ("llama-3.1-8b", 8, 23.71), ("qwen2.5-1.5b", 1, 9.42), ("qwen2.5-1.5b", 128, 51.80)],
)
def test_gpu_peak_on_an_h200(name, batch_size, gib):
    """LMDeploy 0.18.0, 128 x 2048 tokens, NVML. No constant was fitted; the int64 casts were inferred from these."""
    assert prediction(name, batch_size).gpu_bytes == pytest.approx(gib * GIB, rel=0.03)


@pytest.mark.parametrize(
    ("name", "batch_size", "gib"),
    [("llama-3.1-8b", 1, 16.01), ("llama-3.1-8b", 8, 16.01), ("qwen2.5-1.5b", 1, 6.10), ("qwen2.5-1.5b", 128, 32.00)],
)
def test_what_lmdeploy_prints_as_its_maximum(name, batch_size, gib):
    """128 x 2048 tokens: `torch.cuda.max_memory_allocated` at the end."""
    text = read_spec(read_json(f"models/{name}.json")["config"], name).text
    peak = calibration_peak(text, samples=128, seqlen=2048, batch_size=batch_size, search_scale=False)
    assert peak.allocated_bytes == pytest.approx(gib * GIB, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gib", "values"),
    [
        ("llama-3.1-8b", 34.8, {}),
        ("qwen2.5-1.5b", 6.95, {}),
        ("qwen2.5-0.5b", 2.21, {"device": "cpu", "calibration": {"samples": 2, "seqlen": 128}}),
        ("qwen2.5-0.5b", 2.21, {"device": "cpu", "calibration": {"samples": 16, "seqlen": 1024}}),
        ("qwen2.5-1.5b", 6.12, {"device": "cpu", "calibration": {"samples": 2, "seqlen": 128}}),
    ],
)
def test_host_peak(name, gib, values):
    assert prediction(name, **values).host_bytes == pytest.approx(gib * GIB, rel=0.15)


@pytest.mark.parametrize(
    ("name", "batch_size", "seconds"),
    [
        ("llama-3.1-8b", 1, 162),
        ("llama-3.1-8b", 8, 152),
        ("qwen2.5-1.5b", 1, 100),
        ("qwen2.5-1.5b", 8, 88),
        ("qwen2.5-1.5b", 128, 78),
    ],
)
def test_time_on_an_h200(name, batch_size, seconds):
    assert prediction(name, batch_size).seconds == pytest.approx(seconds, rel=0.20)


def test_what_lmdeploy_prints_for_70b():
    """About 30 GiB at the defaults, after the last layer."""
    text = read_spec(read_json("models/llama-3.1-70b.json")["config"], "x").text
    peak = calibration_peak(text, samples=128, seqlen=2048, batch_size=1, search_scale=False)
    assert peak.allocated_bytes == pytest.approx(30 * GIB, rel=0.10)


def test_memory_follows_samples_times_seqlen():
    text = read_spec(read_json("models/llama-3.1-8b.json")["config"], "x").text

    def peak(samples, seqlen):
        return calibration_peak(text, samples=samples, seqlen=seqlen, batch_size=1, search_scale=False).reserved_bytes

    assert peak(256, 1024) == pytest.approx(peak(128, 2048), rel=0.03)
    assert peak(64, 2048) < 0.6 * peak(128, 2048)


def test_auto_takes_the_largest_batch_that_fits():
    job = setting("qwen2.5-1.5b")
    plenty = 10**12
    sizes = [auto_batch_size(*job, gib * GIB, plenty) for gib in (6, 12, 20, 40, 80)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == 128
    for gib, size in zip((12, 20, 40, 80), sizes[1:], strict=True):
        assert size == 1 or predict(*job, batch_size=size, download_bytes=0).gpu_bytes <= 0.9 * gib * GIB
    # No GPU to look at, little host memory, fewer samples than the largest batch, or nothing to calibrate.
    assert auto_batch_size(*job, None, plenty) == 1
    assert auto_batch_size(*job, plenty, GIB) == 1
    assert auto_batch_size(*setting("qwen2.5-1.5b", calibration={"samples": 20}), plenty, plenty) == 16
    assert auto_batch_size(*setting("qwen2.5-1.5b", calibration={"data_free": True}), plenty, plenty) == 1


def test_disk_counts_what_is_fetched():
    recipe, spec, expected = setting("llama-3.1-8b")
    here = predict(recipe, spec, expected, batch_size=1, download_bytes=0).disk_bytes
    assert here > expected.file_bytes
    assert predict(recipe, spec, expected, batch_size=1, download_bytes=GIB).disk_bytes == here + GIB


def test_a_cpu_run_takes_no_gpu():
    assert prediction("qwen2.5-0.5b", device="cpu").gpu_bytes == 0
