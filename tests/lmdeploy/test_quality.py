"""The gate on real weights: good runs of a real LMDeploy pass, its search on a CPU and every corruption fail."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest

from planner.model.arch import read_spec
from planner.model.quantization import QuantMethod
from planner.model.source import read_config
from quantize.data import ROOT as DATA
from quantize.quality.child import Pair, look
from quantize.quality.links import links
from quantize.quality.report import problems, read
from quantize.quality.text import held_out_text
from quantize.recipe.model import Check
from tests.lmdeploy import test_tiny_llama
from tests.lmdeploy.smollm2 import cut, make_smollm2

pytestmark = [
    pytest.mark.lmdeploy,
    pytest.mark.skipif("LMPLAN_WITHOUT_LMDEPLOY" in os.environ, reason="LMPLAN_WITHOUT_LMDEPLOY is set"),
]
DOCS = Path(__file__).parents[2] / "docs"
DATA_FREE = {"data_free": True}
TEXT = {"samples": 4, "seqlen": 128, "batch_size": 1}
GOOD = [
    (64, DATA_FREE, "quantize.md"),
    (32, DATA_FREE, "quantize.md"),
    (64, TEXT, "quantize.md"),
    # The seven others take ten minutes more: LMPLAN_ALL_GOOD_RUNS=1.
    (192, DATA_FREE, "quantize.md"),
    (32, TEXT, "quantize.md"),
    (192, TEXT, "quantize.md"),
    (96, TEXT, "quantize.md"),
    (16, TEXT, "quantize.md"),
    (64, TEXT, "memory-model.md"),
    (64, {**TEXT, "samples": 16, "seqlen": 256}, "memory-model.md"),
]
"""Group size, calibration, text. 128 does not divide the hidden size, 576."""


def lmplan(folder, *words):
    return test_tiny_llama.lmplan(folder, *words, timeout_s=1800)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return make_smollm2(tmp_path_factory.mktemp("smollm2") / "model")


def recipe(folder: Path, model: Path, group_size: int, calibration: dict, text: str, **values) -> Path:
    if "data_free" not in calibration:
        shutil.copy(DOCS / text, folder / "text.txt")
        calibration = {**calibration, "text": str(folder / "text.txt")}
    job = {
        "model": str(model),
        "output": str(folder / "result"),
        "group_size": group_size,
        "dtype": "float16",
        "device": "cpu",
        "calibration": calibration,
        **values,
    }
    (folder / "recipe.yaml").write_text(json.dumps(job))  # JSON is YAML
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def rounded(smollm2, tmp_path_factory):
    """Rounded without calibration, in groups of 64."""
    folder = tmp_path_factory.mktemp("rounded")
    done = lmplan(folder, "quantize", str(recipe(folder, smollm2, *GOOD[0])))
    assert done.returncode == 0, done.stderr
    return folder / "result", done


def test_a_good_run_says_how_good(rounded):
    result, done = rounded
    assert "perplexity" in done.stdout and "of next tokens the same" in done.stdout
    quality = json.loads((result / "lmplan-quality.json").read_text())
    jsonschema.validate(quality, json.loads((DATA / "quality.schema.json").read_text()))
    assert quality["passed"] and len(quality["layers"]) == 30
    assert 16 < quality["text"]["perplexity_original"] < 18.5, "SmolLM2 on the text that comes with lmplan: 17.2"
    found = json.loads((result / "lmplan.json").read_text())["quality"]
    assert found["perplexity_result"] == pytest.approx(quality["text"]["perplexity_result"], rel=1e-3)


@pytest.mark.parametrize("good", GOOD[1 : None if "LMPLAN_ALL_GOOD_RUNS" in os.environ else 3])
def test_good_runs_pass(smollm2, tmp_path, good):
    done = lmplan(tmp_path, "quantize", str(recipe(tmp_path, smollm2, *good)))
    assert done.returncode == 0, done.stderr


def test_search_on_a_cpu_fails(smollm2, tmp_path):
    """LMDeploy restores weights from what is no copy on a CPU. Two layers: the search takes minutes for each."""
    model = cut(smollm2, tmp_path / "model", 2)
    file = recipe(tmp_path, model, 64, {**TEXT, "samples": 2}, "quantize.md", search_scale=True)
    done = lmplan(tmp_path, "quantize", str(file))
    assert done.returncode == 7, done.stderr
    assert "Set search_scale: false" in done.stderr
    assert not (tmp_path / "result").exists()
    report = tmp_path / "result.lmplan-staging" / "result" / "lmplan-quality.json"
    assert not json.loads(report.read_text())["passed"]


class Weights:
    """Tensors of a safetensors file, changed in place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        data = path.read_bytes()
        self._start = 8 + int.from_bytes(data[:8], "little")
        self._header = json.loads(data[8 : self._start])

    def read(self, name: str):
        import numpy

        dtype = {"F16": "<f2", "I32": "<i4", "F32": "<f4"}[self._header[name]["dtype"]]
        begin, end = self._header[name]["data_offsets"]
        with self._path.open("rb") as file:
            file.seek(self._start + begin)
            return numpy.frombuffer(file.read(end - begin), dtype).reshape(self._header[name]["shape"]).copy()

    def write(self, name: str, values) -> None:
        begin, end = self._header[name]["data_offsets"]
        data = values.tobytes()
        assert len(data) == end - begin
        with self._path.open("r+b") as file:
            file.seek(self._start + begin)
            file.write(data)


@contextmanager
def changed(folder: Path, change):
    """`folder` with a change, which is undone."""
    weights = Weights(folder / "model.safetensors")
    before: dict = {}

    def write(name, values):
        before.setdefault(name, weights.read(name))
        weights.write(name, values)

    try:
        change(weights.read, write)
        yield
    finally:
        for name, values in before.items():
            weights.write(name, values)


LAYER = "model.layers.7."


def _take(read, write, target, source):
    for part in ("qweight",):
        write(f"{LAYER}{target}.{part}", read(f"{LAYER}{source}.{part}"))


def _gate_has_ups_codes(read, write):
    _take(read, write, "mlp.gate_proj", "mlp.up_proj")


def _rows_reversed(read, write):
    name = LAYER + "mlp.up_proj.qweight"
    write(name, read(name)[::-1])


def _three_downs_of_zeros(read, write):
    for layer in (3, 5, 6):
        name = f"model.layers.{layer}.mlp.down_proj.scales"
        write(name, read(name) * 0)


def _swapped_scales(read, write):
    one, other = LAYER + "mlp.gate_proj.scales", LAYER + "mlp.up_proj.scales"
    first, second = read(one), read(other)
    write(one, second)
    write(other, first)


def _one_zero_scale(read, write):
    name = LAYER + "self_attn.q_proj.scales"
    values = read(name)
    values[3, 17] = 0
    write(name, values)


def _scaled(factor):
    def change(read, write):
        name = LAYER + "self_attn.v_proj.scales"
        write(name, read(name) * factor)

    return change


def _scaled_up_proj(read, write):
    name = LAYER + "mlp.up_proj.scales"
    write(name, read(name) * 3)


def _poked(name, value, at=5):
    def change(read, write):
        values = read(name)
        values.reshape(-1)[at] = value
        write(name, values)

    return change


def _zeroed_embedding(read, write):
    write("model.embed_tokens.weight", read("model.embed_tokens.weight") * 0)


def _flipped(name, bit, at=1234):
    def change(read, write):
        values = read(name)
        values.view(f"<u{values.itemsize}").reshape(-1)[at] ^= 1 << bit
        write(name, values)

    return change


CORRUPTIONS = {
    "gate has up's codes": (_gate_has_ups_codes, "mlp.gate_proj"),
    "rows reversed": (_rows_reversed, "mlp.up_proj"),
    "three down_proj of zeros": (_three_downs_of_zeros, "layers.3.mlp.down_proj"),
    "swapped scales": (_swapped_scales, "mlp."),
    "one zero scale": (_one_zero_scale, "group 3 of output 17"),
    "scales x1000": (_scaled(1000), "v_proj"),
    "scales x1.3": (_scaled(1.3), "v_proj"),
    "up x3 and down as before": (_scaled_up_proj, "down_proj is 3.0"),
    "NaN in a norm": (_poked(LAYER + "input_layernorm.weight", float("nan")), "input_layernorm.weight: 1 of 576"),
    "NaN in the last norm": (_poked("model.norm.weight", float("nan")), "model.norm.weight: 1 of 576"),
    "NaN in the head": (_poked("model.embed_tokens.weight", float("nan")), "embed_tokens.weight: 1 of"),
    "zeroed embedding": (_zeroed_embedding, "embed_tokens"),
    "bit of a code": (_flipped(LAYER + "mlp.down_proj.qweight", 31), "steps off"),
    "bit of a zero point": (_flipped(LAYER + "self_attn.q_proj.qzeros", 3, at=40), "self_attn.q_proj"),
    "bit of a scale": (_flipped(LAYER + "self_attn.q_proj.scales", 13), "self_attn.q_proj"),
    "bit of a smoothed norm": (_flipped(LAYER + "post_attention_layernorm.weight", 13, at=7), "layers.7.mlp"),
    "bit of the last norm": (_flipped("model.norm.weight", 9, at=7), "model.norm.weight: 1 of 576"),
    "bit of the embedding": (_flipped("model.embed_tokens.weight", 14), "embed_tokens.weight: 1 of"),
}


@pytest.fixture(scope="module")
def few_layers(smollm2, rounded, tmp_path_factory):
    """The first eight layers of the original and of the result."""
    folder = tmp_path_factory.mktemp("few")
    return cut(smollm2, folder / "original", 8), cut(rounded[0], folder / "result", 8)


def said_of_weights(original: Path, result: Path) -> str:
    """What weights alone show, in this process: starting another takes longer than comparing."""
    from quantize.quality.inside.tensors import Tensors
    from quantize.quality.inside.weights import Comparison, Link, to_object

    spec = read_spec(read_config(original / "config.json"), "smollm2")
    linked = [Link(**asdict(link)) for link in links(spec)]
    comparison = Comparison(Tensors(original, "cpu"), Tensors(result, "cpu"), "awq")
    linears = [to_object(linear) for linear in comparison.linears(linked)]
    num_others, others = comparison.others(linked)
    answer = {"linears": linears, "num_others": num_others, "others": others, "config": [], "tokenizer": []}
    answer |= {"text": None, "text_skipped": "weights alone"}
    return "\n".join(problem.what for problem in problems(read(answer, "cpu", 0.0), Check.model_validate({})))


def test_a_good_one_has_no_problem(few_layers):
    assert said_of_weights(*few_layers) == ""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_weights_alone_show_each_corruption(few_layers, name):
    change, said = CORRUPTIONS[name]
    original, result = few_layers
    with changed(result, change):
        assert said in said_of_weights(original, result)


def said_of_all(original: Path, result: Path, folder: Path) -> str:
    check = Check.model_validate({})
    folder.mkdir()
    found = look(
        Pair(original, result, read_spec(read_config(original / "config.json"), "smollm2"), QuantMethod.AWQ),
        check,
        text=held_out_text(check),
        python=sys.executable,
        device="cpu",
        environment=os.environ,
        folder=folder,
        silence_s=600,
        tell=lambda text: None,
    )
    return "\n".join(problem.what for problem in problems(found, check))


def test_another_rope_and_another_tokenizer(smollm2, rounded, tmp_path):
    result = tmp_path / "result"
    shutil.copytree(rounded[0], result)
    config = json.loads((result / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 3
    (result / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((result / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (result / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = said_of_all(smollm2, result, tmp_path / "check")
    assert "rope_parameters.rope_theta: 100000.0 -> 3" in said
    assert "2 of 49152 tokens have another number" in said
    assert "held-out text: perplexity rises" in said


def test_inspect_against(smollm2, rounded, tmp_path):
    words = ("inspect", str(rounded[0]), "--against", str(smollm2), "--device", "cpu", "--weights-only")
    done = lmplan(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    with changed(rounded[0], _rows_reversed):
        done = lmplan(tmp_path, *words, "--json")
    assert done.returncode == 7
    assert "model.layers.7.mlp.up_proj is" in done.stderr and "Quantize again" in done.stderr
    answer = json.loads(done.stdout)
    assert not answer["passed"]
    jsonschema.validate(answer["quality"], json.loads((DATA / "quality.schema.json").read_text()))
