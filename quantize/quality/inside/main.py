"""One check, from a request in JSON to a report in JSON; it prints where it is.

The request is what `quantize.quality.child.look` makes. What cannot be looked at is said in the report; what fails
in a way that nobody foresaw ends the program with its traceback.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from quantize.quality.inside import facts, text
from quantize.quality.inside.tensors import Tensors
from quantize.quality.inside.weights import Comparison, Link, to_object

_ROOM_BYTES = 6 * 2**30
"""Beside the checkpoints: a layer that is multiplied out, activations, logits, temporaries. 1.6 GiB for an 8B model."""


def run(path: Path) -> None:
    """Do what the request in `path` asks for, and write the report where it says."""
    asked = json.loads(path.read_text(encoding="utf-8"))
    tensors = Tensors(Path(asked["original"]), asked["device"]), Tensors(Path(asked["result"]), asked["device"])
    if asked["device"] == "cuda" and _fit(tensors):
        for one in tensors:
            one.load()
    report = _compare_weights(asked, tensors) | _compare_rest(asked, tensors)
    if asked["device"] == "cuda":
        report["gpu_peak_bytes"] = torch.cuda.max_memory_reserved()
    Path(asked["report"]).write_text(json.dumps(_without_nan(report)), encoding="utf-8")


def _compare_weights(asked: dict[str, Any], tensors: tuple[Tensors, Tensors]) -> dict[str, Any]:
    links = [Link(**link) for link in asked["links"]]
    comparison = Comparison(*tensors, asked["method"])
    linears = []
    for number, found in enumerate(comparison.linears(links)):
        if not number or found.layer != links[number - 1].layer:
            _tell("weights", found.layer, asked["num_layers"])
        linears.append(to_object(found))
    num_others, others = comparison.others(links)
    return {"linears": linears, "num_others": num_others, "others": others}


def _compare_rest(asked: dict[str, Any], tensors: tuple[Tensors, Tensors]) -> dict[str, Any]:
    original, result, remote = Path(asked["original"]), Path(asked["result"]), asked["trust_remote_code"]
    words = Path(asked["text"]).read_text(encoding="utf-8")
    tokenizers = facts.load_tokenizer(original, remote), facts.load_tokenizer(result, remote)
    report = {
        "config": facts.config_differences(original, result, frozenset(asked["may_differ"]), remote),
        "tokenizer": facts.tokenizer_differences(*tokenizers, words),
        "text": None,
        "text_skipped": asked["text_skipped"],
    }
    if not asked["text_skipped"]:
        try:
            report["text"] = _through_both(asked, tensors, _tokens(asked, tokenizers[0], words))
        except (text.OtherNamesError, torch.cuda.OutOfMemoryError) as error:
            report["text_skipped"] = str(error).splitlines()[0]
    return report


def _fit(tensors: tuple[Tensors, Tensors]) -> bool:
    """Whether the GPU holds both checkpoints at once; else each tensor is read again when it is wanted."""
    free_bytes: int = torch.cuda.mem_get_info()[0]
    return sum(one.file_bytes for one in tensors) + _ROOM_BYTES < free_bytes


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
