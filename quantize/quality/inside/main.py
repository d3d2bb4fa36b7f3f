"""One check, from a request in JSON to a report in JSON; it prints where it is.

The request is what `quantize.quality.child.request` makes. What cannot be looked at is said in the report; what fails
in a way that nobody foresaw ends the program with its traceback.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from quantize.quality.inside import text
from quantize.quality.inside.facts import config_differences, load_tokenizer, tokenizer_differences
from quantize.quality.inside.tensors import Tensors
from quantize.quality.inside.weights import Comparison, Link, to_object


def run(path: Path) -> None:
    """Do what the request in `path` asks for, and write the report where it says."""
    begun = time.monotonic()
    asked = json.loads(path.read_text(encoding="utf-8"))
    original, result = Path(asked["original"]), Path(asked["result"])
    remote = asked["trust_remote_code"]
    tensors = Tensors(original, asked["device"]), Tensors(result, asked["device"])
    links = [Link(**link) for link in asked["links"]]
    differences = config_differences(original, result, frozenset(asked["may_differ"]), remote)
    report: dict[str, Any] = {"linears": [], "config": differences}
    comparison = Comparison(*tensors, asked["method"])
    layer = -1
    for found in comparison.linears(links):
        report["linears"].append(to_object(found))
        if found.layer != layer:
            layer = found.layer
            _tell("weights", layer, asked["num_layers"])
    report["num_others"], report["others"] = comparison.others(links)
    report["weights_seconds"] = time.monotonic() - begun
    words = Path(asked["text"]).read_text(encoding="utf-8")
    tokenizers = load_tokenizer(original, remote), load_tokenizer(result, remote)
    report["tokenizer"] = tokenizer_differences(*tokenizers, words)
    report["text"], report["text_skipped"] = None, asked["text_skipped"]
    if not asked["text_skipped"]:
        try:
            report["text"] = _through_both(asked, tensors, _tokens(asked, tokenizers[0], words))
        except (text.OtherNamesError, torch.cuda.OutOfMemoryError) as error:
            report["text_skipped"] = str(error).splitlines()[0]
    report["seconds"] = time.monotonic() - begun
    if asked["device"] == "cuda":
        report["gpu_peak_bytes"] = torch.cuda.max_memory_reserved()
    Path(asked["report"]).write_text(json.dumps(_without_nan(report)), encoding="utf-8")


def _tokens(asked: dict[str, Any], tokenizer: Any, words: str) -> torch.Tensor:
    """[samples, tokens]: the text cut in pieces, each behind what the tokenizer puts before a text."""
    head = tokenizer("")["input_ids"]
    numbers = tokenizer(words, add_special_tokens=False)["input_ids"]
    size = asked["text_seqlen"] - len(head)
    pieces = [numbers[at : at + size] for at in range(0, len(numbers) - size + 1, size)][: asked["text_samples"]]
    if not pieces:
        raise SystemExit(f"the held-out text has {len(numbers)} tokens, which make no piece of {size}")
    return torch.tensor([head + piece for piece in pieces], device=asked["device"])


def _through_both(asked: dict[str, Any], tensors: tuple[Tensors, Tensors], tokens: torch.Tensor) -> dict[str, Any]:
    prefix, remote = asked["prefix"], asked["trust_remote_code"]
    states = []
    for name, one in zip(("original", "result"), tensors, strict=True):
        config = AutoConfig.from_pretrained(asked[name], trust_remote_code=remote)
        if prefix:
            config = getattr(config, "llm_config", None) or config.get_text_config()
        # A CPU computes in float32 sooner than in 16 bits; a GPU in what the checkpoint will be served in.
        dtype = torch.float32 if asked["device"] == "cpu" else one.get(asked["embedding"]).dtype
        weights = text.Weights(one, asked["method"], prefix, dtype)

        def tell(layer: int, name: str = name) -> None:
            _tell(f"text, {name}", layer, asked["num_layers"])

        states.append(text.hidden_states(config, weights, tokens, asked["layer_name"], remote, tell))
    return text.compare(tokens, *states)


def _tell(what: str, layer: int, num_layers: int) -> None:
    print(f"check: {what}, layer {layer + 1} of {num_layers}", flush=True)


def _without_nan(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null stands for what is no number."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
