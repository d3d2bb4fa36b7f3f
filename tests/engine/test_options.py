"""Settings and LMDeploy's options: what is printed is the plan, and read back it is the same plan."""

from __future__ import annotations

import ast
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import estimate
from planner.artefacts.deployed import Deployed
from planner.artefacts.launch import api_server_command
from planner.artefacts.python_config import python_config
from planner.errors import LmplanError, UsageError
from planner.hardware.gpu import find_gpu
from planner.kinds import EngineName, WeightsChoice
from planner.lmdeploy import options, versions
from planner.lmdeploy.options import api_server_words, chat_words, full_config
from planner.lmdeploy.pasted import read_api_server
from planner.lmdeploy.settings import Request, Settings, decide, defaults
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.spec import ModelSpec
from planner.report.jsonform import settings_object
from planner.request import Load
from tests.engine.test_versions import RELEASES
from tests.examples import examples

MODELS = ("llama-3.1-8b", "internlm2_5-7b", "qwen3-8b", "qwen3-8b-fp8", "internvl2-8b", "mistral-7b-v0.1")


def _spec(model: str) -> ModelSpec:
    entry = catalog.load(model)
    assert entry is not None
    return read_spec(entry.config, model)


SPECS = {model: _spec(model) for model in MODELS}
GPUS = {name: find_gpu(name) for name in ("v100-32g", "a100-80g", "h100", "t4")}


def _same(one: Settings, other: Settings) -> bool:
    """Whether two settings start the same server. A served checkpoint says itself how it is quantized."""
    plain = {"weights": WeightsChoice.AS_IS, "notes": ()}
    return one._replace(**plain) == other._replace(**plain)


@settings(max_examples=examples(400), deadline=None)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from(RELEASES),
    st.builds(
        Request,
        engine=st.sampled_from([None, *EngineName.words()]),
        weights=st.sampled_from(WeightsChoice.words()),
        dtype=st.sampled_from(["auto", "float16", "bfloat16"]),
        quant_policy=st.sampled_from([0, 4, 8]),
        cache_max_entry_count=st.none() | st.floats(0.001, 0.999) | st.integers(1, 10**6).map(float),
        tp=st.sampled_from([1, 2, 4, 8]),
        session_len=st.none() | st.integers(1, 2**18) | st.sampled_from([32768, 40960, 40968, 131072, 131080]),
        max_batch_size=st.none() | st.integers(1, 2048),
        max_prefill_token_num=st.none() | st.integers(1, 2**16),
    ),
)
def test_what_is_printed_reads_back_as_the_same_plan(model: str, gpu: str, text: str, wishes: Request) -> None:
    spec, lmdeploy = SPECS[model], versions.resolve(text)
    try:
        chosen = decide(spec, GPUS[gpu], lmdeploy, wishes)
    except LmplanError:
        return
    default = defaults(chosen, spec, GPUS[gpu])
    words = api_server_words(chosen, default)
    assert [w for w in words if w.startswith("--") and not versions.has_option(w, lmdeploy.rules)] == []
    line = shlex.join(["lmdeploy", "serve", "api_server", "./served", *words])
    pasted = read_api_server(line, lmdeploy)
    assert (pasted.model, pasted.others) == ("./served", {})
    served = spec._replace(quantization=chosen.quantization)
    if not (chosen.engine is EngineName.PYTORCH and chosen.weights is WeightsChoice.FP8):
        assert _same(decide(served, GPUS[gpu], lmdeploy, pasted.request), chosen)
    else:
        assert _same(decide(spec, GPUS[gpu], lmdeploy, pasted.request), chosen)  # quantized while it loads
    for told in pairwise(chat_words(chosen, default)):
        assert not told[0].startswith("--") or versions.has_option(told[0], lmdeploy.rules, "chat")


@pytest.mark.parametrize(
    ("model", "gpu", "wishes", "told"),
    [
        ("qwen3-8b", "h100", {"dtype": "float16"}, {"--dtype": "float16"}),
        ("qwen3-8b", "h100", {"session_len": 40968}, {"--session-len": "40968"}),
        ("internlm2_5-7b", "a100-80g", {"lmdeploy": "0.5.3", "session_len": 32768}, {"--session-len": "32768"}),
        ("internlm2_5-7b", "a100-80g", {"lmdeploy": "0.5.3", "session_len": 32776}, {"--session-len": None}),
        ("internlm2_5-7b", "a100-80g", {"lmdeploy": "0.4.0", "session_len": 32768}, {"--session-len": "32768"}),
        ("internlm2_5-7b", "a100-80g", {"lmdeploy": "0.18.0", "session_len": 32768}, {"--session-len": None}),
        ("qwen3-8b", "h100", {"dtype": "bfloat16"}, {"--dtype": None, "--quant-policy": None, "--tp": None}),
        ("qwen3-8b", "v100-32g", {"dtype": "bfloat16"}, {"--dtype": None}),
        ("qwen3-8b", "h100", {"cache_max_entry_count": 0.123456789}, {"--cache-max-entry-count": "0.123456789"}),
    ],
)
def test_the_command_is_the_plan(model: str, gpu: str, wishes: dict[str, Any], told: dict[str, str | None]) -> None:
    plan = estimate(model, gpu, **wishes)
    words = shlex.split(api_server_command(plan.memory, model))
    assert {option: dict(pairwise(words)).get(option) for option in told} == told


@pytest.mark.parametrize(
    ("lmdeploy", "wishes", "message"),
    [
        ("0.6.0", {"dtype": "float16"}, "LMDeploy 0.6.0 has no --dtype"),
        ("0.5.3", {"max_prefill_token_num": 4096}, "LMDeploy 0.5.3 has no --max-prefill-token-num"),
    ],
)
def test_what_a_version_cannot_be_told_is_refused(lmdeploy: str, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        decide(SPECS["internlm2_5-7b"], GPUS["a100-80g"], versions.resolve(lmdeploy), Request(**wishes))
    assert re.search(r"is there from 0\.6\.[01] on", caught.value.hint)
    unchanged = {**wishes, "max_prefill_token_num": 8192} if "dtype" not in wishes else {"dtype": "bfloat16"}
    decide(SPECS["internlm2_5-7b"], GPUS["a100-80g"], versions.resolve(lmdeploy), Request(**unchanged))


def test_chat_leaves_out_what_it_does_not_heed() -> None:
    """`lmdeploy chat` takes --session-len in 0.5.3 and serves the model's maximum all the same."""
    for text, said in (("0.5.0", True), ("0.5.3", False), ("0.6.0", True)):
        chosen = decide(
            SPECS["internlm2_5-7b"],
            GPUS["a100-80g"],
            versions.resolve(text),
            Request(session_len=2048, max_batch_size=4),
        )
        words = chat_words(chosen, defaults(chosen, SPECS["internlm2_5-7b"], GPUS["a100-80g"]))
        assert ("--session-len" in words) == said
        assert "--max-batch-size" not in words


def test_python_json_and_measured_runs_have_the_same_settings() -> None:
    plan = estimate("qwen3-8b", "h100", tp=2, session_len=4096, quant_policy=8, dtype="float16", max_batch_size=77)
    tree = ast.parse(python_config(Deployed(plan.memory, "qwen3-8b", Load(4096, 1))))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and "EngineConfig" in ast.unparse(n.func))
    given_config = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    full = full_config(plan.memory.deployment.settings)
    assert given_config.items() <= full.items()
    assert given_config.keys() == full.keys() - {"max_prefill_token_num"}
    assert full.items() <= settings_object(plan.memory.deployment.settings).items()
    assert [option.name for option in options.OPTIONS] == list(full)


COMMAND = "lmdeploy serve api_server Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("text", "lmdeploy", "wishes", "others"),
    [
        (f"{COMMAND} --tp 2", "0.18.0", {"tp": 2}, {}),
        (f"{COMMAND} --tp=2", "0.5.3", {"tp": 2}, {}),
        (f"{COMMAND} --tp 2 --tp 4", "0.18.0", {"tp": 4}, {}),
        (
            f"CUDA_VISIBLE_DEVICES=0 /opt/bin/{COMMAND} \\\n  --cache_max_entry_count 0.5 \\\n --quant-policy INT8",
            "0.18.0",
            {"cache_max_entry_count": 0.5, "quant_policy": 8},
            {},
        ),
        (
            "python -m lmdeploy serve api_server --backend pytorch --trust-remote-code Qwen/Qwen3-8B --server-port 80",
            "0.18.0",
            {"engine": "pytorch"},
            {"--trust-remote-code": (), "--server-port": ("80",)},
        ),
        (
            f"{COMMAND} --model-format awq --api-keys a b --hf-overrides.rope 3",
            "0.18.0",
            {"weights": "w4a16"},
            {"--api-keys": ("a", "b"), "--hf-overrides": ("3",)},
        ),
    ],
)
def test_a_pasted_command(text: str, lmdeploy: str, wishes: dict[str, Any], others: dict[str, Any]) -> None:
    pasted = read_api_server(text, versions.resolve(lmdeploy))
    assert pasted == ("Qwen/Qwen3-8B", Request(**wishes), others)


@pytest.mark.parametrize(
    ("text", "lmdeploy", "message"),
    [
        (f"{COMMAND} --tpp 2", "0.18.0", "has no option --tpp"),
        (f"{COMMAND} --max-prefill-token-num 4096", "0.5.3", "of LMDeploy 0.5.3 has no option --max-prefill-token-num"),
        (f"{COMMAND} --session_len 4096", "0.9.1", "has no option --session_len"),
        (f"{COMMAND} --tp", "0.18.0", "--tp has no value"),
        (f"{COMMAND} --tp --dp 2", "0.18.0", "--tp has no value"),
        (f"{COMMAND} --tp two", "0.18.0", "--tp is 'two'; expected a number"),
        (f"{COMMAND} --cache-max-entry-count nan", "0.18.0", "expected a number"),
        (f"{COMMAND} --eager-mode=1", "0.18.0", "--eager-mode takes no value"),
        (f"{COMMAND} --model-format gguf", "0.18.0", "--model-format is 'gguf'; LMDeploy 0.18.0 takes hf, awq"),
        (f"{COMMAND} --model-format fp8", "0.5.3", "--model-format is 'fp8'"),
        (f"{COMMAND} other", "0.18.0", "names Qwen/Qwen3-8B, other; expected one model"),
        ("lmdeploy serve api_server --tp 2", "0.18.0", "names no model"),
        ("lmdeploy chat model", "0.18.0", "is not `lmdeploy serve api_server"),
        (f"{COMMAND} 'x", "0.18.0", "cannot be read"),
        ("", "0.18.0", "is not `lmdeploy serve"),
    ],
)
def test_a_pasted_command_that_cannot_be_read(text: str, lmdeploy: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read_api_server(text, versions.resolve(lmdeploy))
