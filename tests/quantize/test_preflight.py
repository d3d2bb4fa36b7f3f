"""Every finding of the preflight, and that all of them come at once."""

from __future__ import annotations

import json

import pytest

from planner.data import read_json
from planner.model.arch import read_spec
from planner.model.formats import W4A16
from planner.model.source import ModelSource, resolve
from quantize.checkpoint.expected import expect
from quantize.lite.dataset import TextSize
from quantize.lite.findings import Severity
from quantize.lite.resources import Needs
from quantize.lite.versions import lite_version
from quantize.recipe.model import MethodName, Recipe
from quantize.run import preflight, preflight_machine
from quantize.system.installation import Installation
from quantize.system.machine import Machine
from quantize.system.nvml import GpuState

GOOD = {"torch": "2.11.0", "transformers": "5.17.0", "datasets": "4.8.5", "accelerate": "1.15.0", "torchvision": "0.26"}


def recipe(**values):
    return Recipe.model_validate({"model": "m", "output": "o", **values})


def model(name, **changes):
    config = {**read_json(f"models/{name}.json")["config"], **changes}
    return config, read_spec(config, name)


def installation(version="0.18.0", packages=GOOD):
    return Installation(("lmdeploy",), version, packages, frozenset())


def said(findings, severity=Severity.ERROR):
    return "\n".join(finding.what for finding in findings if finding.severity is severity)


def of_recipe(name="llama-3.1-8b", changes=None, **values):
    config, spec = model(name, **(changes or {}))
    return list(preflight.recipe_findings(recipe(**values), spec, config))


def of_version(name="llama-3.1-8b", version="0.18.0", packages=GOOD, changes=None, **values):
    _, spec = model(name, **(changes or {}))
    lite = lite_version(version, MethodName.AWQ)
    return list(preflight.version_findings(recipe(**values), spec, lite, installation(version, packages)))


def test_a_good_recipe_has_no_findings():
    assert of_recipe() == []
    assert of_version(calibration={"dataset": "wikitext2"}) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"bits": 8}, "packs 4 bits only"),
        ({"symmetric": True}, "fails while packing"),
        ({"group_size": 96}, "does not divide 4096, 14336"),
    ],
)
def test_recipes_that_lmdeploy_fails_on(values, text):
    findings = of_recipe(**values)
    assert text in said(findings)
    assert all(finding.remedy for finding in findings)


def test_a_group_size_that_fits_is_named():
    # 896 and 4864 inputs are no multiples of 512.
    (finding,) = of_recipe("qwen2.5-0.5b", group_size=512)
    assert finding.remedy == "Set group_size: 128"
    assert "kernels serve" in said(of_recipe(group_size=256), Severity.WARNING)


def test_remote_code_and_quantized_models():
    assert "Python code" in said(of_recipe("internlm2_5-7b"))
    assert not of_recipe("internlm2_5-7b", trust_remote_code=True)
    assert "cannot be quantized" in said(of_recipe("internlm2_5-7b", draw=True))
    assert "quantized already (fp8)" in said(of_recipe("qwen3-8b-fp8"))


def test_seqlen_beyond_the_model():
    assert "longer than" in said(of_recipe("llama-2-7b", calibration={"seqlen": 8192}), Severity.WARNING)


@pytest.mark.parametrize(
    ("name", "version", "values", "text"),
    [
        ("llama-3.1-8b", "0.18.0", {"calibration": {"dataset": "ptb"}}, "does not know the dataset ptb"),
        ("llama-3.1-8b", "0.10.2", {"calibration": {"dataset": "gsm8k"}}, "does not know the dataset gsm8k"),
        ("llama-3.1-8b", "0.10.2", {"calibration": {"data_free": True}}, "without calibration data"),
        ("llama-3.1-8b", "0.18.0", {"device": "cpu"}, "refuses bfloat16"),
        ("llama-3.1-8b", "0.6.0", {"device": "cpu"}, "has no --device"),
        ("llama-3.1-8b", "0.5.3", {"dtype": "bfloat16"}, "has no --dtype"),
        ("qwen3-30b-a3b", "0.18.0", {}, "raises KeyError"),
        ("qwen3-30b-a3b", "0.10.2", {}, "cannot quantize Qwen3MoeForCausalLM"),
        ("qwen2-57b-a14b", "0.18.0", {}, "cannot quantize Qwen2MoeForCausalLM"),
        ("internlm-chat-7b", "0.18.0", {}, "cannot quantize InternLMForCausalLM"),
        ("internvl3-8b-hf", "0.18.0", {}, "Hugging Face form"),
    ],
)
def test_what_a_version_cannot(name, version, values, text):
    assert text in said(of_version(name, version, **values))


@pytest.mark.parametrize(
    ("name", "version", "values"),
    [
        ("llama-3.1-8b", "0.10.2", {"device": "cpu"}),
        ("qwen3-30b-a3b", "0.18.0", {"calibration": {"data_free": True}}),
        ("internlm-chat-7b", "0.14.0", {}),
        ("internvl3-8b", "0.18.0", {}),
        ("internvl2-26b", "0.18.0", {}),
    ],
)
def test_what_a_version_can(name, version, values):
    assert said(of_version(name, version, packages={}, **values)) == ""


def test_packages_that_do_not_go_together():
    assert "does not work with datasets 4.8.5" in said(of_version(version="0.10.2"))
    assert "does not work with transformers 5.17.0" in said(of_version(version="0.10.2"))
    assert "does not work with transformers" in said(of_version("mixtral-8x7b"))
    without = {name: version for name, version in GOOD.items() if name not in ("datasets", "torchvision")}
    assert "needs datasets" in said(of_version(packages=without))
    assert "needs torchvision" in said(of_version("internvl3-8b", packages=without))


def test_warnings_of_versions():
    assert "always runs Python code" in said(of_version(version="0.12.0", packages={}), Severity.WARNING)
    assert "newer than any" in said(of_version(version="0.99.0"), Severity.WARNING)
    assert "fewer samples" in said(of_version(calibration={"dataset": "gsm8k"}), Severity.WARNING)
    changed = {"torch_dtype": "float32"}
    assert "float32 and stays so" in said(of_version(changes=changed), Severity.WARNING)


def test_options_that_the_help_does_not_list():
    installed = Installation(("lmdeploy",), "0.18.0", {}, frozenset({"--work-dir"}))
    findings = list(preflight.command_findings(["lite", "--work-dir", "x", "--dtype", "auto"], installed))
    assert "does not list --dtype" in said(findings) and len(findings) == 1


@pytest.mark.parametrize(
    ("size", "severity", "text"),
    [
        (TextSize(1, 100, 100), Severity.ERROR, "cannot make one sample"),
        (TextSize(1, 4000, 4000), Severity.ERROR, "less than one sample"),
        (TextSize(1, 40_000, 40_000), Severity.WARNING, "samples will overlap"),
    ],
)
def test_too_little_text(size, severity, text):
    findings = list(preflight_machine.text_findings(recipe(), size, vocabulary_is_bytes=False))
    assert text in said(findings, severity)


def test_enough_text():
    assert not list(preflight_machine.text_findings(recipe(), TextSize(9, 2**21, 2**21), vocabulary_is_bytes=False))


def test_network_and_cache():
    named = recipe(calibration={"dataset": "c4"})
    assert "not in the cache" in said(preflight_machine.network_findings(named, reachable=False, cached=False))
    assert "from your cache" in said(preflight_machine.network_findings(named, False, True), Severity.WARNING)
    assert not list(preflight_machine.network_findings(named, True, False))
    assert not list(preflight_machine.network_findings(recipe(calibration={"dataset": "drawn"}), False, False))


def test_weights_that_are_not_there(tmp_path):
    source = resolve("llama-3.1-8b")
    _, spec = model("llama-3.1-8b")
    assert "are not on this machine" in said(preflight_machine.weights_findings(source, spec, reachable=False))
    assert not list(preflight_machine.weights_findings(source, spec, reachable=True))
    bare = ModelSource("x", source.config, "file")
    assert "without weights" in said(preflight_machine.weights_findings(bare, spec, reachable=True))
    (tmp_path / "config.json").write_text(json.dumps(source.config))
    assert "has no weights" in said(preflight_machine.weights_findings(resolve(str(tmp_path)), spec, reachable=True))


def test_the_machine_is_too_small():
    needs = Needs(10, 20, 30, {})
    small = Machine(19, 29, GpuState("g", 10, 1))
    findings = list(preflight_machine.machine_findings(recipe(), needs, small))
    assert [finding.exit_code for finding in findings] == [5, 5, 5]
    assert not list(preflight_machine.machine_findings(recipe(), needs, Machine(20, 30, GpuState("g", 10, 0))))
    assert "no GPU" in said(preflight_machine.machine_findings(recipe(), needs, Machine(20, 30, None)))


def test_all_findings_come_at_once(fake, lmplan, tmp_path):
    fake(help="usage: lmdeploy lite auto_awq --work-dir --calib-dataset")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    (tmp_path / "r.yaml").write_text(
        "model: llama-3.1-8b\noutput: out\nbits: 3\nsymmetric: true\ndevice: cpu\ncalibration:\n  text: missing.jsonl\n"
    )
    done = lmplan("quantize", "r.yaml")
    assert done.returncode == 2
    for text in ("3-bit", "symmetric", "not empty", "r.yaml:7: cannot read missing.jsonl", "bfloat16", "--dtype",
                 "are not on this machine"):  # fmt: skip
        assert text in done.stderr, text
    assert "lmplan: the preflight found" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_lmdeploy_missing_says_how_to_install_it(lmplan, monkeypatch, tmp_path):
    monkeypatch.setenv("LMPLAN_LMDEPLOY", str(tmp_path / "nowhere"))
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == 5
    assert "pip install lmdeploy" in done.stderr
    # What the run would take is said all the same.
    assert "not installed" in done.stdout and "1,764,488 bytes" in done.stdout


@pytest.mark.parametrize(("answer", "code"), [(1, 6), ("usage: something else", 6)])
def test_lmdeploy_that_does_not_answer_its_help(fake, lmplan, answer, code):
    fake(help=answer)
    done = lmplan("quantize", "tiny-llama")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_lmdeploy_that_is_too_old_or_nonsense(fake, lmplan):
    for version in ("0.4.0", "soon"):
        fake(version=version)
        done = lmplan("quantize", "tiny-llama")
        assert done.returncode == 5, done.stderr


@pytest.mark.parametrize(
    ("name", "tensor_bytes", "file_bytes"),
    [("llama-3.1-8b", 5_727_854_592, 5_727_938_832), ("qwen2.5-1.5b", 1_147_724_800, 1_147_806_696)],
)
def test_bytes_of_files_that_auto_awq_made(name, tensor_bytes, file_bytes):
    """Files of LMDeploy 0.18.0 on an H200, header and all."""
    _, spec = model(name)
    expected = expect(spec, W4A16, spec.dtype)
    assert expected.tensor_bytes == tensor_bytes
    assert expected.file_bytes == file_bytes
