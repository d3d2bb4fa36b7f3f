"""Whatever stands behind an option, the answer is a report or one clear line, and never a traceback."""

from __future__ import annotations

import contextlib
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cli.main import run
from tests.examples import examples

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-4, 600).map(str),
    st.floats().map(str),
    st.sampled_from(["", "0", "-0", "1e3", "0x10", "1_000", "nan", "inf", "٣", "9" * 5000]),
)
SIZES = st.builds(
    "{}{}{}".format, NUMBERS, st.sampled_from(["", " ", "\t"]), st.sampled_from(["GiB", "GB", "b", "", "XB"])
)
# Names that look like Hugging Face ids would go to the network, so free text has no slash between two words.
WORDS = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), max_size=12)
MODELS = st.one_of(
    st.sampled_from(["internlm2_5-7b", "qwen3-30b-a3b", "internvl2-26b", "qwen2.5-0.5b", "qwen3-8b-fp8", "gemma-2-9b"]),
    WORDS,
    WORDS.map("./".__add__),
    WORDS.map("{}.json".format),
)
GPUS = st.one_of(st.sampled_from(["a100-24g", "h200", "v100-32g", "t4", "rtx4090"]), SIZES, WORDS)
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--sm": NUMBERS,
    "--free": SIZES,
    "--lmdeploy": st.one_of(st.sampled_from(["0.5.3", "0.10.2", "0.18.0", "0.99", "1!2.0", "0.18.0+local"]), WORDS),
    "--engine": st.sampled_from(["turbomind", "pytorch", "vllm"]),
    "--weights": st.sampled_from(["as-is", "w4a16", ""]),
    "--dtype": st.sampled_from(["auto", "float16", "bfloat16", "float64"]),
    "--quant-policy": st.sampled_from(["0", "4", "8", "16"]),
    "--cache-max-entry-count": NUMBERS,
    "--tp": NUMBERS,
    "--session-len": NUMBERS,
    "--max-batch-size": NUMBERS,
    "--max-prefill-token-num": NUMBERS,
    "--context": NUMBERS,
    "--format": st.sampled_from(["table", "markdown", "json"]),
}


@settings(deadline=None, max_examples=examples(150))
@given(MODELS, GPUS, st.fixed_dictionaries({}, optional=OPTIONS))
def test_no_option_value_ends_in_a_traceback(model: str, gpu: str, options: dict[str, str]) -> None:
    arguments = [f"--model={model}", f"--gpu={gpu}", *(f"{name}={value}" for name, value in options.items())]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["estimate", *arguments])
    assert code in (0, 2, 3, 4, 5, 8)
    if code in (0, 3, 8):
        assert out.getvalue()
        assert not err.getvalue()
        return
    assert not out.getvalue()
    lines = err.getvalue().split("\n")
    assert lines[0].startswith("lmplan: ")
    assert lines.pop() == ""
    assert len(lines) <= 2, err.getvalue()
