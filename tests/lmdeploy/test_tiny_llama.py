"""A real `lmdeploy lite auto_awq` on the CPU, through `lmplan quantize tiny-llama`, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from quantize.checkpoint.make import known_config, make
from quantize.lite.inspection import inspect_folder
from tests.commands import LMPLAN

pytestmark = [
    pytest.mark.lmdeploy,
    pytest.mark.skipif("LMPLAN_WITHOUT_LMDEPLOY" in os.environ, reason="LMPLAN_WITHOUT_LMDEPLOY is set"),
]
OUTPUT = "tiny-llama-w4a16"


def lmplan(folder, *words, timeout_s=300):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LMPLAN_", "FAKE_"))}
    return subprocess.run(
        [*LMPLAN, *words],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    begun = time.monotonic()
    done = lmplan(folder, "quantize", "tiny-llama")
    assert done.returncode == 0, done.stderr
    return folder, done, time.monotonic() - begun


def test_it_takes_less_than_two_minutes(finished):
    assert finished[2] < 120


def test_bytes_are_as_predicted_and_the_checkpoint_passes(finished):
    folder, done, _ = finished
    manifest = json.loads((folder / OUTPUT / "lmplan.json").read_text())
    assert manifest["checkpoint"]["found_bytes"] == manifest["checkpoint"]["predicted_bytes"]
    inspection = inspect_folder(folder / OUTPUT)
    assert inspection.passed and not inspection.notes, inspection
    assert inspection.num_scales == 28
    assert "predicted (+0.0000%)" in done.stdout


def test_every_phase_was_seen(finished):
    folder, _, _ = finished
    manifest = json.loads((folder / OUTPUT / "lmplan.json").read_text())
    assert list(manifest["phase_seconds"]) == ["loading", "calibration", "smoothing", "packing", "saving"]
    log = (folder / OUTPUT / "lmplan.log").read_text()
    assert log.count("weight packed.") == 28
    assert manifest["host"]["found_bytes"] < 1.15 * manifest["host"]["predicted_bytes"]


def test_nothing_else_is_left_and_a_second_run_does_nothing(finished):
    folder, _, _ = finished
    assert [path.name for path in folder.iterdir()] == [OUTPUT]
    again = lmplan(folder, "quantize", "tiny-llama")
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_own_text_and_its_cache_stay_in_their_run(finished, tmp_path):
    text = tmp_path / "mine.jsonl"
    rows = ({"body": f"Line {number} of a text of one's own, long enough to calibrate on."} for number in range(400))
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("dataset=null", f"text={text}", "text_field=body", "samples=4")
    done = lmplan(tmp_path, "quantize", "tiny-llama", *(f"--set=calibration.{setting}" for setting in settings))
    assert done.returncode == 0, done.stderr
    first = (finished[0] / OUTPUT / "model.safetensors").read_bytes()
    assert (tmp_path / OUTPUT / "model.safetensors").read_bytes() != first, "another text gives other scales"


def test_data_free(tmp_path):
    done = lmplan(
        tmp_path, "quantize", "tiny-llama", "--set", "calibration.dataset=null", "--set", "calibration.data_free=true"
    )
    assert done.returncode == 0, done.stderr
    assert inspect_folder(tmp_path / OUTPUT).passed


def test_scale_search(tmp_path):
    done = lmplan(tmp_path, "quantize", "tiny-llama", "--set", "search_scale=true", "--set", "calibration.samples=2")
    assert done.returncode == 0, done.stderr
    assert inspect_folder(tmp_path / OUTPUT).passed


def test_drawn_models_load_in_transformers(finished, tmp_path):
    transformers = pytest.importorskip("transformers")
    make("tiny-llama", tmp_path / "model", fill="drawn")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich.\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer("abc", add_special_tokens=False)["input_ids"]) == 3


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Qwen3ForCausalLM", {"model_type": "qwen3", "tie_word_embeddings": True}),
        ("Qwen2ForCausalLM", {"model_type": "qwen2"}),
    ],
)
def test_other_families(tmp_path, architecture, changes):
    """Tied embeddings and query norms; biases."""
    config = {**known_config("tiny-llama"), **changes, "architectures": [architecture], "num_hidden_layers": 1}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    done = lmplan(tmp_path, "quantize", "tiny-llama", "--set", "model=./model", "--set", "calibration.samples=1")
    assert done.returncode == 0, done.stderr
    assert "bytes predicted (+0.0000%)" in done.stdout
