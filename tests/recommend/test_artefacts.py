"""What starts a plan: every flag is one that its version knows, every text is whole."""

from __future__ import annotations

import ast
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

import quantize
from planner import estimate
from planner.api.advice import Advice, advise
from planner.data import read_toml
from planner.lmdeploy.versions import choices, has_option
from quantize.recipe.file import load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSIONS = ("0.4.0", "0.5.0", "0.5.3", "0.6.0", "0.7.0", "0.9.2", "0.10.2", "0.12.3", "0.13.0", "0.16.0", "0.18.0")
CASES = [
    ("internlm2_5-7b", "a10", {"concurrency": 16}),
    ("internlm2_5-7b", "a10", {"concurrency": 20, "context": 16384, "num_gpus": 4}),
    ("llama-3.1-8b", "a100-80g", {"concurrency": 300, "context": 2048}),
    ("internvl2-26b", "a100-40g", {"context": 4096, "images": 1}),
    ("llama-2-70b", "a100-80g", {"keep_quality": True}),
]
NEWEST = [
    ("qwen3-8b", "l4", {"concurrency": 4, "context": 40000}),
    ("qwen3-8b", "24GiB", {"sm": 89, "concurrency": 20}),
    ("qwen3-14b", "l40s", {"engine": "pytorch", "concurrency": 32}),
    ("qwen3-8b-fp8", "h100", {}),
]
ALL = [(*case, version) for case in CASES for version in VERSIONS] + [(*case, "0.18.0") for case in NEWEST]


def _texts(model: str, gpu: str, wishes: dict[str, Any], version: str) -> tuple[Advice, dict[str, str]]:
    advice = advise(model, (gpu,), lmdeploy=version, **wishes)
    return advice, {artefact.key: artefact.text for artefact in advice.artefacts()}


def _options(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith("--")]


Case = tuple[Advice, dict[str, str], str]


@pytest.fixture(scope="module", params=ALL, ids=lambda case: f"{case[0]}-{case[1]}-{case[3]}")
def case(request: pytest.FixtureRequest) -> Case:
    """An answer, its texts and its version, made once for all that is held against it."""
    return *_texts(*request.param), request.param[3]


def test_commands_use_flags_that_the_version_knows(case: Case) -> None:
    advice, texts, version = case
    rules = Version(version)
    serve, chat = shlex.split(texts["api_server"]), shlex.split(texts["chat"])
    assert serve[:3] == ["lmdeploy", "serve", "api_server"]
    assert chat[:2] == ["lmdeploy", "chat"]
    assert serve[3] == chat[2]
    assert [o for o in _options(serve) if not has_option(o, rules)] == []
    assert [o for o in _options(chat) if not has_option(o, rules, "chat")] == []
    # Every setting that is not LMDeploy's own default is on the command line.
    assert advice.decision.chosen is not None
    s = advice.decision.chosen.candidate.settings
    told = dict(itertools.pairwise(serve))
    assert float(told["--cache-max-entry-count"]) == s.cache_max_entry_count
    assert int(told.get("--tp", 1)) == s.tp
    assert int(told.get("--quant-policy", 0)) == s.quant_policy
    if "--max-prefill-token-num" not in told:
        assert s.max_prefill_token_num == 8192


def test_choices_are_those_of_the_version(case: Case) -> None:
    _, texts, version = case
    words = shlex.split(texts["api_server"])
    told = dict(itertools.pairwise(words))
    for option in read_toml("lmdeploy.toml")["cli"]["choices"]:
        if option in told:
            assert told[option] in choices(option, Version(version))


def test_python_is_python(case: Case) -> None:
    advice, texts, _ = case
    tree = ast.parse(texts["python"])
    calls = {node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
    assert advice.decision.chosen is not None
    s = advice.decision.chosen.candidate.settings
    config = calls["TurbomindEngineConfig" if s.engine == "turbomind" else "PytorchEngineConfig"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in config.keywords}
    assert given["cache_max_entry_count"] == s.cache_max_entry_count
    assert given.get("quant_policy", 0) == s.quant_policy
    assert given.get("tp", 1) == s.tp


def test_manifests_ask_for_the_gpus_and_probe_the_server(case: Case) -> None:
    advice, texts, version = case
    assert advice.decision.chosen is not None
    tp = advice.decision.chosen.candidate.option.tp
    live = "/health" if Version(version) >= Version("0.5.0") else "/v1/models"

    (service,) = yaml.safe_load(texts["compose"])["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == tp
    assert service["healthcheck"]["test"][-1].endswith(live)
    assert service["image"].startswith(f"openmmlab/lmdeploy:v{version}")

    deployment, endpoint = yaml.safe_load_all(texts["kubernetes"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": tp}
    assert container["livenessProbe"]["httpGet"]["path"] == live
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models"
    # Reading the checkpoint from a slow disk is waited for.
    startup = container["startupProbe"]
    checkpoint_bytes = advice.decision.chosen.memory.checkpoint_bytes
    assert startup["periodSeconds"] * startup["failureThreshold"] > checkpoint_bytes / 200e6
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == endpoint["spec"]["selector"]
    assert len(deployment["metadata"]["name"]) <= 63
    for words in (service["command"], container["command"]):
        assert [o for o in _options(words) if not has_option(o, Version(version))] == []
        assert words[words.index("--server-name") + 1] == "0.0.0.0"


def test_ms_swift_gets_the_same_settings() -> None:
    _, texts = _texts("internlm2_5-7b", "a10", {"concurrency": 20, "context": 16384, "num_gpus": 4}, "0.18.0")
    words = shlex.split(texts["swift"])
    assert words[:2] == ["swift", "deploy"]
    told = dict(itertools.pairwise(words))
    assert told["--infer_backend"] == "lmdeploy"
    serve = shlex.split(texts["api_server"])
    assert told["--lmdeploy_tp"] == serve[serve.index("--tp") + 1]


def test_w4a16_comes_with_a_recipe_that_quantize_reads(tmp_path: Path) -> None:
    advice, texts = _texts("internlm2_5-7b", "a10", {"concurrency": 16}, "0.18.0")
    path = tmp_path / "quantize.yaml"
    path.write_text(texts["quantize"])
    recipe = load_recipe(str(path)).recipe
    assert recipe.model == "internlm/internlm2_5-7b-chat"
    assert recipe.output == shlex.split(texts["api_server"])[3]
    assert recipe.deployment is not None and advice.decision.chosen is not None
    assert recipe.deployment.ratio == advice.decision.chosen.candidate.settings.cache_max_entry_count
    assert recipe.deployment.kv_bits == 8
    _, sized = _texts("qwen3-14b", "24GiB", {"sm": 86, "concurrency": 8}, "0.18.0")
    path.write_text(sized["quantize"])
    assert load_recipe(str(path)).recipe.deployment is not None


def test_what_is_served_as_it_is_needs_no_recipe() -> None:
    _, texts = _texts("qwen3-8b", "h200", {}, "0.18.0")
    assert "quantize" not in texts
    assert shlex.split(texts["api_server"])[3] == "Qwen/Qwen3-8B"


def test_fp8_serves_the_published_checkpoint_where_there_is_one() -> None:
    _, texts = _texts("qwen3-8b", "l4", {"concurrency": 4, "context": 38000}, "0.18.0")
    words = shlex.split(texts["api_server"])
    assert words[3] == "Qwen/Qwen3-8B-FP8"
    assert words[words.index("--model-format") + 1] == "fp8"


def test_what_auto_awq_takes_is_what_quantize_knows() -> None:
    with (Path(quantize.__file__).parent / "data" / "lite.toml").open("rb") as file:
        newest = tomllib.load(file)["awq"]["architectures"][-1]
    ours = read_toml("artefacts.toml")["auto_awq"]
    assert {key: set(ours[key]) for key in ours} == {key: set(newest[key]) for key in ours}


def test_what_lmdeploy_cannot_make_is_said() -> None:
    mixture, texts = _texts("qwen3-30b-a3b", "a10", {"num_gpus": 1, "context": 4096}, "0.18.0")
    assert mixture.decision.chosen is not None
    assert yaml.safe_load(texts["quantize"])["calibration"] == {"data_free": True}
    older, texts = _texts("qwen2-57b-a14b", "rtx-4090", {"num_gpus": 2, "context": 2048}, "0.18.0")
    assert older.decision.chosen is not None
    if older.decision.chosen.candidate.option.weights == "w4a16":
        assert "quantize" not in texts
        assert any("needs a published AWQ checkpoint" in note for note in older.notes)
    eight = estimate("qwen3-14b", "l4", weights="fp8", tp=1)
    assert eight.recommendation.why[1].startswith("LMDeploy writes no fp8 checkpoint for TurboMind")


def test_what_has_to_be_found_comes_behind_what_can_be_made() -> None:
    load = {"concurrency": 4, "context": 8192}
    made, _ = _texts("qwen3-14b", "l4", load, "0.18.0")
    published, _ = _texts("qwen3-8b", "l4", {"concurrency": 4, "context": 38000}, "0.18.0")
    assert made.decision.chosen is not None and published.decision.chosen is not None
    assert made.decision.chosen.candidate.option.weights == "w4a16"
    assert published.decision.chosen.candidate.option.weights == "fp8"
