"""Requests that cannot be met: the closest plan, and the one wish that has to give. And the command's own manners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.api.advice import Advice, advise
from planner.cli.main import run
from planner.data import ROOT
from planner.report import decision_json, decision_table
from planner.request import Load

Capture = pytest.CaptureFixture[str]
SCHEMA = json.loads((ROOT / "schemas" / "recommend-1.schema.json").read_text())


def wish(**wishes: Any) -> Advice:
    return advise(wishes.pop("model", "internlm2_5-7b"), wishes.pop("gpus", ("a10",)), **wishes)


@pytest.mark.parametrize(
    ("wishes", "gives"),
    [
        # A session cannot be shorter than its image.
        ({"model": "internvl2-2b", "num_gpus": 1, "context": 3400, "concurrency": 900, "images": 1}, "--concurrency"),
        ({"num_gpus": 1, "context": 32000, "concurrency": 16}, "--context"),
        ({"num_gpus": 1, "context": 8192, "concurrency": 16, "keep_quality": True}, "--keep-quality"),
        ({"num_gpus": 1, "context": 8192, "latency_ms": 15}, "--latency-ms"),
        ({"model": "internvl2-2b", "num_gpus": 1, "context": 3400, "first_token_ms": 100}, "--first-token-ms"),
        ({"model": "llama-3.1-70b", "num_gpus": 1, "context": 2048}, "--gpus"),
        ({"context": 40000}, "--context"),
        ({"model": "internvl2-2b", "context": 3000, "images": 1}, "--context"),
    ],
)
def test_one_wish_gives_and_the_rest_is_served(wishes: dict[str, Any], gives: str) -> None:
    advice = wish(**wishes)
    decision = advice.decision
    assert not decision.serves
    assert decision.relaxation is not None and decision.chosen is not None
    assert decision.relaxation.wish == gives
    changed = decision.relaxation.load
    # One wish only: the load differs in one field, or the GPUs do.
    differing = [name for name in Load._fields if getattr(changed, name) != getattr(decision.load, name)]
    assert len(differing) == (0 if gives == "--gpus" else 1)
    assert decision.chosen.memory.fits
    assert decision.chosen.candidate.users >= changed.num_users
    jsonschema.validate(decision_json.to_object(advice), SCHEMA)
    assert {"--keep-quality": "Allow quantization"}.get(gives, gives) in decision_table.render(advice)


def test_the_wish_gives_no_more_than_it_must() -> None:
    relaxation = wish(num_gpus=1, context=8192, concurrency=60).decision.relaxation
    assert relaxation is not None and relaxation.wish == "--context"
    assert wish(num_gpus=1, context=relaxation.load.context_tokens, concurrency=60).decision.serves
    assert not wish(num_gpus=1, context=relaxation.load.context_tokens + 1, concurrency=60).decision.serves


def test_what_nothing_serves_says_how_much_is_missing() -> None:
    advice = wish(model="llama-3.1-405b", gpus=("l4",))
    assert advice.decision.chosen is None and advice.decision.relaxation is None
    text = decision_table.render(advice)
    assert "Nothing that LMDeploy 0.18.0 offers serves this on l4. The least is missing with" in text
    jsonschema.validate(decision_json.to_object(advice), SCHEMA)


def test_several_gpus_are_compared_in_one_ranking() -> None:
    advice = wish(gpus=("t4", "a10", "a100-80g"), context=8192, concurrency=16)
    chosen = advice.decision.chosen
    assert chosen is not None
    assert chosen.candidate.offer.gpu.name == "a100-80g"
    assert chosen.candidate.option.loss == 0
    assert {w.offer.gpu.name for w in advice.decision.options} == {"t4", "a10", "a100-80g"}


def test_max_gives_users_and_context_for_every_setting() -> None:
    advice = wish(num_gpus=1, context=8192, concurrency=4, limits=True)
    users = {(w.option.weights, w.option.quant_policy): w.users.value for w in advice.limits if w.users}
    tokens = {(w.option.weights, w.option.quant_policy): w.context.value for w in advice.limits if w.context}
    assert users["as-is", 0] < users["as-is", 8] < users["as-is", 4] < users["w4a16", 4]
    assert tokens["as-is", 0] <= tokens["as-is", 8] <= tokens["w4a16", 8] <= 32768
    for (weights, policy), most in users.items():
        again = wish(num_gpus=1, context=8192, concurrency=most)
        row = next(w for w in again.decision.options if (w.option.weights, w.option.quant_policy) == (weights, policy))
        assert row.serves
    jsonschema.validate(decision_json.to_object(advice), SCHEMA)


def test_the_command_exits_with_3_where_a_wish_gives(capsys: Capture) -> None:
    words = ["recommend", "--model", "internlm2_5-7b", "--gpu", "a10", "--context", "8192"]
    assert run([*words, "--concurrency", "16"]) == 0
    assert "Yes: " in capsys.readouterr().out
    assert run([*words, "--concurrency", "600", "--gpus", "1"]) == 3
    assert "Does not fit as requested. --concurrency: " in capsys.readouterr().out


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
@pytest.mark.parametrize("extra", [[], ["--max"]])
def test_every_form_prints(form: str, extra: list[str], capsys: Capture) -> None:
    words = ["recommend", "--model", "qwen3-8b", "--gpu", "l4", "--gpus", "1", "--format", form, *extra]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n") and out.strip()
    if form == "json":
        value = json.loads(out)
        jsonschema.validate(value, SCHEMA)
        assert ("limits" in value) == bool(extra)


def test_limits_exit_with_3_where_nothing_holds_a_user(capsys: Capture) -> None:
    words = ["recommend", "--model", "qwen3-8b", "--gpu", "l4", "--gpus", "1", "--max"]
    assert run([*words, "--concurrency", "60000"]) == 0
    assert run([*words, "--free", "1GiB"]) == 3
    assert "short" in capsys.readouterr().out


def test_the_schema_is_printed(capsys: Capture) -> None:
    assert run(["recommend", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


def test_the_artefacts_are_written(tmp_path: Path, capsys: Capture) -> None:
    words = ["recommend", "--model", "internlm2_5-7b", "--gpu", "a10", "--concurrency", "16", "--write"]
    assert run([*words, str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"quantize.yaml", "serve.sh", "chat.sh", "serve.py", "compose.yaml", "kubernetes.yaml", "swift.sh"}
    (tmp_path / "file").write_text("")
    assert run([*words, str(tmp_path / "file" / "out")]) == 2


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--concurrency", "0"], "--concurrency is 0; expected 1 to"),
        (["--context", "-1"], "--context is -1; expected 1 to"),
        (["--images", "1"], "takes no images"),
        (["--latency-ms", "0"], "--latency-ms is 0; expected a time above 0"),
        (["--latency-ms", "nan"], "--latency-ms is nan"),
        (["--gpus", "9"], "--gpus is 9; expected 1 to 8"),
        (["--gpus", "0"], "--gpus is 0; expected 1 to 8"),
        (["--gpu", "b300x"], "unknown GPU 'b300x'"),
        (["--gpu", "24GiB", "--sm", "80"], "--sm goes with a size"),
        (["--lmdeploy", "0.1.0"], "older than what lmplan knows"),
    ],
)
def test_what_cannot_be_wished_for_is_one_line(extra: list[str], says: str, capsys: Capture) -> None:
    assert run(["recommend", "--model", "internlm2_5-7b", "--gpu", "a10", *extra]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert says in captured.err
    assert len(captured.err.splitlines()) <= 2


def test_a_time_cannot_be_promised_on_a_gpu_given_by_size(capsys: Capture) -> None:
    words = ["recommend", "--model", "qwen3-8b", "--gpu", "24GiB", "--sm", "89"]
    assert run(words) == 0
    assert "the speed is not known" in capsys.readouterr().out
    assert run([*words, "--latency-ms", "20"]) == 2
    assert "no time can be promised" in capsys.readouterr().err


def test_an_unsupported_model_exits_with_4(capsys: Capture) -> None:
    assert run(["recommend", "--model", "qwen-vl-chat", "--gpu", "a10"]) == 4
    assert "Qwen-VL" in capsys.readouterr().err


def test_a_wish_for_time_is_held_against_the_slow_end() -> None:
    advice = wish(gpus=("h200",), context=4096, concurrency=4, latency_ms=20)
    chosen = advice.decision.chosen
    assert chosen is not None and chosen.speed is not None
    assert chosen.speed.step_seconds.high * 1000 <= 20
    # Growth ends where a token would take longer, long before the memory does.
    free = wish(gpus=("h200",), context=4096, concurrency=4).decision.chosen
    assert free is not None
    assert chosen.users.value < free.users.value
    assert chosen.binding.startswith("the speed")


@pytest.mark.parametrize(
    ("model", "gpu", "free"),
    [
        ("qwen1.5-7b-chat", "h200", "8GiB"),
        ("qwen1.5-7b-chat", "h200", "10.7GiB"),
        ("internlm2-20b", "a100-80g", "17GiB"),
        ("llama-2-13b", "h200", "10.7GiB"),
    ],
)
def test_no_recommended_start_may_hang(model: str, gpu: str, free: str) -> None:
    chosen = wish(model=model, gpus=(gpu,), free=free, num_gpus=1, context=2048).decision.chosen
    assert chosen is not None and chosen.memory.fits
    assert not [warning for warning in chosen.memory.warnings if "hangs" in warning]
