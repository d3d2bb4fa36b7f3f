"""The gate without torch: what is linked to what, limits, the child's bad ends, and what a run makes of them."""

from __future__ import annotations

import ast
import json
import math
import os
import stat
import sys
from pathlib import Path

import jsonschema
import pytest

import quantize
from planner.data import read_json
from planner.errors import ChildFailedError, EnvironmentProblem
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.arch.registry import READERS
from planner.model.inventory import inventory
from planner.model.quantization import QuantMethod
from planner.model.tensors import LINEAR_ROLES
from quantize.checkpoint.expected import expect
from quantize.data import ROOT as DATA
from quantize.lite.methods import METHODS
from quantize.lite.versions import lite_version, newest_version
from quantize.quality.child import Pair, look
from quantize.quality.links import links
from quantize.quality.needs import needs
from quantize.quality.report import LinearError, Quality, TextResult, problems, read, to_object
from quantize.quality.text import held_out_text
from quantize.recipe.model import Check, MethodName, Recipe

INSIDE = Path(quantize.__file__).parent / "quality" / "inside"
SCHEMA = json.loads((DATA / "quality.schema.json").read_text())
GOOD = {
    "name": "model.layers.0.mlp.up_proj",
    "layer": 0,
    "error": 0.1,
    "group_error": 0.2,
    "worst_output": 1,
    "worst_group": 2,
    "steps": 0.5,
    "scale": 1.0,
    "bias_error": None,
}
TEXT = {
    "num_tokens": 2040,
    "perplexity_original": 20.0,
    "perplexity_result": 24.0,
    "mean_kl_nats": 0.2,
    "p99_kl_nats": 1.5,
    "top1_agreement_ratio": 0.75,
}
ANSWER = {
    "linears": [GOOD],
    "num_others": 3,
    "others": [],
    "config": [],
    "tokenizer": [],
    "text": TEXT,
    "text_skipped": "",
}


PLANNED = [e for e in catalog.entries() if e.config["architectures"][0] in READERS and "visual" not in e.config]


def check(**values) -> Check:
    return Check.model_validate(values)


def spec_of(name: str):
    return read_spec(read_json(f"models/{name}.json")["config"], name)


def quality(**values) -> Quality:
    return read({**ANSWER, **values}, "cpu", 1.5)


def said(**values) -> str:
    return "\n".join(problem.what for problem in problems(quality(**values), check()))


def by_name(name: str):
    return {link.name: link for link in links(spec_of(name))}


def imported(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return names + [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]


def test_what_only_the_childs_python_has_stays_inside():
    """The child has nothing of lmplan but this one package, and lmplan has no torch."""
    allowed = {"torch", "transformers", "safetensors", *sys.stdlib_module_names}
    own = "quantize.quality.inside"
    for path in INSIDE.parents[1].rglob("*.py"):
        names = imported(path)
        if INSIDE in path.parents:
            assert all(name.startswith(own) or name.partition(".")[0] in allowed for name in names), path
        else:
            assert not any(name.startswith(own) for name in names), path


def test_shared_values_move_no_scale():
    """Llama-3.1-8B has 8 heads of values for 32 of queries; Llama-2-7B has one each."""
    grouped = by_name("llama-3.1-8b")
    assert grouped["model.layers.3.self_attn.o_proj"].feeder is None
    assert grouped["model.layers.3.self_attn.v_proj"].feeds == 0
    whole = by_name("llama-2-7b")
    assert whole["model.layers.3.self_attn.o_proj"].feeder == "model.layers.3.self_attn.v_proj"
    assert whole["model.layers.3.self_attn.v_proj"].feeds == 4096
    for linked in (grouped, whole):
        assert linked["model.layers.3.mlp.down_proj"].feeder == "model.layers.3.mlp.up_proj"
        assert linked["model.layers.3.mlp.gate_proj"].norm == "model.layers.3.post_attention_layernorm"
        assert linked["model.layers.3.mlp.gate_proj"].feeds == 0


def test_fused_and_expert_linears():
    fused = by_name("qwen-7b-chat")
    assert fused["transformer.h.0.attn.c_attn"].feeds == 4096
    assert fused["transformer.h.0.mlp.c_proj"].feeder == "transformer.h.0.mlp.w1"
    experts = by_name("mixtral-8x7b")
    assert experts["model.layers.1.block_sparse_moe.experts.7.w2"].feeder == (
        "model.layers.1.block_sparse_moe.experts.7.w3"
    )
    assert experts["model.layers.1.block_sparse_moe.gate"].norm == "model.layers.1.post_attention_layernorm"


@pytest.mark.parametrize("entry", PLANNED, ids=lambda entry: entry.name)
def test_every_linear_is_linked_once_and_behind_what_feeds_it(entry):
    spec = read_spec(entry.config, entry.name)
    found = [link.name for link in links(spec)]
    wanted = [
        tensor.name.removesuffix(".weight")
        for group in inventory(spec)
        if group.role in LINEAR_ROLES and len(group.shape) == 2 and group.name.endswith(".weight")
        for tensor in group.expand()
    ]
    assert len(found) == len(set(found)) and set(wanted) <= set(found)
    place = {name: number for number, name in enumerate(found)}
    for link in links(spec):
        assert link.feeder is None or place[link.feeder] < place[link.name]


def test_a_good_one_has_no_problems_and_its_report_has_the_schema():
    found = quality()
    assert problems(found, check()) == []
    report = to_object(found, check(), [])
    jsonschema.validate(report, SCHEMA)
    assert report["layers"][0]["linears"][0]["name"] == GOOD["name"]
    assert found.summary()["linear_error"] == 0.1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("error", 0.3, "up_proj is 30% off the original's weights, at most 25%"),
        ("error", None, "up_proj is no number off"),
        ("group_error", 1.0, "group 2 of output 1 is 100% off"),
        ("steps", 7.4, "a weight is 7.4 steps off"),
        ("bias_error", 0.9, "its bias is 90% off"),
    ],
)
def test_limits_of_a_linear(key, value, words):
    found = said(linears=[{**GOOD, key: value}])
    assert words in found
    jsonschema.validate(to_object(quality(linears=[{**GOOD, key: value}]), check(), []), SCHEMA)


def test_remedies():
    def remedy(**values):
        (problem,) = problems(quality(linears=[{**GOOD, **values}]), check())
        return problem.remedy

    assert "group_size" in remedy(error=0.3)
    assert "damaged" in remedy(error=1.4)
    assert "search_scale: false" in remedy(error=0.6, scale=0.42)
    assert "damaged" in remedy(error=1.4, scale=-0.04), "that is no scale"
    assert "damaged" in remedy(error=1.0, scale=0.5)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("perplexity_result", 33.0, "perplexity rises from 20 to 33, by a share of 0.65, 0.6 are allowed"),
        ("perplexity_result", None, "perplexity rises from 20 to no number"),
        ("mean_kl_nats", 0.8, "the mean divergence is 0.8 nats"),
        ("p99_kl_nats", 9.0, "one token in a hundred diverges by more than 9 nats"),
        ("top1_agreement_ratio", 0.45, "for 45% of the tokens, 50% are required"),
    ],
)
def test_limits_of_text(key, value, words):
    assert words in said(text={**TEXT, key: value})


def test_what_is_no_weight():
    assert "config.json is not the original's: rope_theta: 1 -> 3" in said(config=["rope_theta: 1 -> 3"])
    assert "tokenizer is not the original's: x" in said(tokenizer=["x"])
    assert said(others=[{"name": "model.norm.weight", "problem": "1 of 4 values are NaN"}]).startswith("model.norm")


def test_of_experts_the_worst_is_kept():
    experts = [
        {**GOOD, "name": f"model.layers.0.mlp.experts.{n}.up_proj", "error": error}
        for n, error in enumerate((0.1, 0.9, 0.2))
    ]
    found = quality(linears=[*experts, GOOD])
    assert [linear.name for linear in found.linears] == ["model.layers.0.mlp.experts.1.up_proj", GOOD["name"]]
    assert found.worst("error") == 0.9
    assert quality(linears=[{**GOOD, "error": None}]).worst("error") == math.inf


def test_limits_leave_room_above_the_worst_good_run():
    """docs/quantize.md lists the runs; a limit that one of them comes near is no limit."""
    limits = check()
    worst = LinearError("x", 0, 0.176, 0.33, 0, 0, 1.0, 1.022, None)
    text = TextResult(2040, 17.16, 23.64, 0.409, 1.82, 0.632)
    good = Quality((worst,), 0, {}, (), (), text, "", "cpu", 1.0)
    assert problems(good, limits) == []


def test_own_held_out_text(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"body": "First."}\n{"body": "Second."}\n')
    assert held_out_text(check(text=str(file), text_field="body")) == "First.\n\nSecond."
    assert len(held_out_text(check())) > 8000


def needs_of(name="llama-3.1-8b", device="cuda", drawn=False, **values):
    spec = spec_of(name)
    recipe = Recipe.model_validate({"model": "m", "output": "o"})
    method = METHODS[MethodName.AWQ]
    quantization = method.quantization(recipe, spec, lite_version(newest_version(), MethodName.AWQ))
    return needs(spec, expect(spec, quantization, spec.dtype), check(**values), device, drawn)


def test_needs():
    full, weights = needs_of(), needs_of(quality="weights")
    assert needs_of(quality="none") is None
    assert full.seconds > weights.seconds and full.gpu_bytes > weights.gpu_bytes and full.host_bytes == 0
    assert needs_of(drawn=True) == weights
    assert needs_of(device="cpu").gpu_bytes == 0
    assert full.seconds < 0.1 * 162 * 1.5, "Llama-3.1-8B takes 162 s to quantize on an H200"


PYTHON = """#!{python}
import json, pathlib, sys
if len(sys.argv) < 5 or "inside.main" not in sys.argv[2]:
    import os
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
asked = json.loads(pathlib.Path(sys.argv[4]).read_text())
print("check: weights, layer 1 of 4", flush=True)
print("check: weights, layer 2 of 4", flush=True)
{end}
pathlib.Path(asked["report"]).write_text(json.dumps({answer!r}))
"""


@pytest.fixture
def python(tmp_path):
    """A Python whose check ends as told."""

    def make(answer=None, end="") -> str:
        path = tmp_path / "python3"
        path.write_text(PYTHON.format(python=sys.executable, answer=answer or ANSWER, end=end))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def run_child(python: str, tmp_path: Path, silence_s=60.0):
    folder = tmp_path / "check"
    folder.mkdir()
    heard: list[str] = []
    pair = Pair(tmp_path / "original", tmp_path / "result", spec_of("qwen2.5-0.5b"), QuantMethod.AWQ)
    found = look(
        pair,
        check(),
        text="held out",
        python=python,
        device="cpu",
        environment=os.environ,
        folder=folder,
        silence_s=silence_s,
        tell=heard.append,
    )
    return found, heard


def test_the_child_is_heard(python, tmp_path):
    found, heard = run_child(python(), tmp_path)
    assert found.linears == quality().linears and found.text == quality().text and found.seconds > 0
    assert heard == ["check: weights"]


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ("sys.exit('ModuleNotFoundError: No module named \\'torch\\'')", EnvironmentProblem, "cannot run in"),
        ("sys.exit('RuntimeError: odd')", ChildFailedError, "exit code 1): RuntimeError: odd"),
        ("sys.exit(0)", ChildFailedError, "failed"),
        ("import os; os.kill(os.getpid(), 9)", ChildFailedError, "killed by SIGKILL"),
        ("import time; time.sleep(60)", ChildFailedError, "printed nothing for 1 s"),
    ],
)
def test_bad_ends_of_the_child(python, tmp_path, end, kind, words):
    with pytest.raises(kind, match="check of the weights") as raised:
        run_child(python(end=end), tmp_path, silence_s=1.0 if "time" in end else 60.0)
    assert words in raised.value.message


@pytest.fixture
def with_check(fake, monkeypatch, tmp_path, python):
    """A run whose check answers as told."""

    def make(answer=None, end=""):
        interpreter = python(answer, end)
        script = Path(os.environ["LMPLAN_LMDEPLOY"])
        fake_file = Path(__file__).with_name("fake_lmdeploy.py")
        script.write_text(f"#!{interpreter}\nimport runpy\nrunpy.run_path({str(fake_file)!r}, run_name='__main__')\n")
        monkeypatch.setenv("LMPLAN_RECIPE_CHECK__QUALITY", "weights")

    return make


def test_a_run_that_is_good_enough(with_check, lmplan, tmp_path):
    with_check()
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 0, done.stderr
    assert "check        weights against the original's" in done.stdout
    assert "at most 10.0% off the original's (model.layers.0.mlp.up_proj)" in done.stdout
    assert "check: weights" in done.stderr
    output = tmp_path / "tiny-llama-w4a16"
    assert json.loads((output / "lmplan-quality.json").read_text())["passed"]
    assert json.loads((output / "lmplan.json").read_text())["quality"]["linear_error"] == 0.1


def test_a_run_that_is_not(with_check, lmplan, tmp_path):
    with_check({**ANSWER, "linears": [{**GOOD, "error": 0.6, "scale": 0.42}]})
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 7, done.stderr
    assert "not good enough: model.layers.0.mlp.up_proj is 0.42 times what goes with" in done.stderr
    assert "Set search_scale: false" in done.stderr
    staging = tmp_path / "tiny-llama-w4a16.lmplan-staging"
    assert not (tmp_path / "tiny-llama-w4a16").exists()
    assert not json.loads((staging / "result" / "lmplan-quality.json").read_text())["passed"]
    assert "search_scale" in (staging / "problems.txt").read_text()


def test_a_check_that_fails_keeps_the_result(with_check, lmplan, tmp_path):
    with_check(end="sys.exit('RuntimeError: odd')")
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 6 and "RuntimeError: odd" in done.stderr
    staging = tmp_path / "tiny-llama-w4a16.lmplan-staging"
    assert (staging / "result" / "model.safetensors").exists() and (staging / "check" / "check.log").exists()


def test_another_deployment_needs_no_other_run(fake, lmplan):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    again = lmplan("quantize", "tiny-llama", "--set", "deployment.gpu=l4-24g", "--set", "check.linear_error=0.1")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert "l4-24g" in again.stdout


def test_the_held_out_text_is_looked_at_before_the_run(fake, lmplan, tmp_path):
    (tmp_path / "mine.txt").write_text("Mine.\n")
    gone = lmplan("quantize", "tiny-llama", "--dry-run", "--set", "check.text=gone.txt")
    assert gone.returncode == 2 and "--set check.text: cannot read gone.txt" in gone.stderr


def test_against_needs_an_original_that_is_one(fake, lmplan, tmp_path):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    done = lmplan("inspect", "tiny-llama-w4a16", "--against", "tiny-llama-w4a16")
    assert done.returncode == 2 and "is quantized itself" in done.stderr
    done = lmplan("inspect", "tiny-llama-w4a16", "--weights-only")
    assert done.returncode == 2 and "--against" in done.stderr
