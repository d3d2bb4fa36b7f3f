"""Which modules a checkpoint leaves unquantized: the one reading of ``modules_to_not_convert``.

AutoAWQ leaves a linear in 16 bits where an entry is a substring of its module's name (`awq/utils/module.py`,
exclude_layers_to_not_quantize, 0.2.9); the entry that it writes itself is ``gate``, for Mixtral's router. Published fp8
checkpoints have whole names, one a layer (``model.layers.0.mlp.gate``). TurboMind asks nobody and takes each linear as
the file has it (`lmdeploy/turbomind/weight_format.py`, WeightFormatResolver, 0.18.0), so what the file holds decides:

- An entry that is the name of a router means the router, which is never quantized, and nothing else: ``gate`` is not
  about ``gate_proj`` where there is an ``mlp.gate``. Engines fuse gate and up and need both in one format, so that a
  checkpoint in which the entry meant more could not be served.
- Any other entry is a substring of the names that it holds out: ``self_attn``, ``model.layers.0.``, ``down_proj``.
- Numbers are whole: ``model.layers.1`` is not about layer 11.
- An entry that starts with ``re:`` is a regular expression for the start of a name (compressed-tensors, ``ignore``; so
  reads it `lmdeploy/pytorch/config.py`, _matches_compressed_tensors_ignore, 0.18.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from planner.errors import ConfigError, UnsupportedModelError
from planner.files.escape import shown

_LAYER, _EXPERT = "{layer}", "{expert}"
_PATTERN = "re:"
_NUMBER = re.compile(r"\d+")
_REPETITION = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_MOST_MATCHES = 100_000
"""Patterns times layers; published lists have up to a dozen patterns, for at most 126 layers."""


@lru_cache(maxsize=4096)
def held_out_layers(module: str, layers: tuple[int, ...], entries: tuple[str, ...]) -> frozenset[int]:
    """Of `layers` those whose `module` stays unquantized.

    Args:
        module: its whole name, with ``{layer}`` and ``{expert}`` for the numbers.
        layers: indices of decoder layers.
        entries: of `modules_to_not_convert`, without those about routers.

    Raises:
        UnsupportedModelError: an entry names single experts.
    """
    _refuse_single_experts(module, entries)
    before, _, behind = module.partition(_LAYER)
    sample = _without_numbers(f"{before}0{behind}")
    patterns = [entry.removeprefix(_PATTERN) for entry in entries if entry.startswith(_PATTERN)]
    # Thousands of entries, one a layer, are compared with thousands of layers: each only where it can match.
    of_layer: dict[str, list[str]] = {}
    for entry in entries:
        if entry.startswith(_PATTERN) or _without_numbers(entry) not in sample:
            continue
        if _names(entry, before) or _names(entry, behind):
            return frozenset(layers)
        # It names the layer, and the layer's number is one of its own.
        for number in _NUMBER.findall(entry):
            of_layer.setdefault(number, []).append(entry)
    named = {layer for layer in layers if str(layer) in of_layer}
    held = {layer for layer in named if _any_names(of_layer[str(layer)], module.replace(_LAYER, str(layer)))}
    return frozenset(held | _matched(patterns, module, layers))


def _matched(patterns: list[str], module: str, layers: tuple[int, ...]) -> set[int]:
    """The layers whose module one of the patterns matches."""
    if len(patterns) * len(layers) > _MOST_MATCHES:
        raise UnsupportedModelError(
            f"config.json: {len(patterns)} regular expressions say what of {len(layers)} layers is not quantized",
            "Names of modules do as well",
        )
    compiled = [_compiled(pattern) for pattern in patterns]
    return {layer for layer in layers if any(pattern.match(module.replace(_LAYER, str(layer))) for pattern in compiled)}


def without_routers(entries: tuple[str, ...], routers: Iterable[str]) -> tuple[str, ...]:
    """The entries that are about more than `routers`, module names that may hold ``{layer}``."""
    names = [router.split(".") for router in routers]
    return tuple(entry for entry in entries if not any(_is_tail(entry.split("."), name) for name in names))


def _any_names(entries: list[str], name: str) -> bool:
    return any(_names(entry, name) for entry in entries)


def _names(entry: str, name: str) -> bool:
    """Whether the entry is a part of the name that cuts no number in two."""
    at = name.find(entry)
    while entry and at >= 0:
        end = at + len(entry)
        cut_before = entry[0].isdigit() and name[at - 1 : at].isdigit()
        if not cut_before and not (entry[-1].isdigit() and name[end : end + 1].isdigit()):
            return True
        at = name.find(entry, at + 1)
    return False


def _is_tail(words: list[str], name: list[str]) -> bool:
    """Whether the words are the last ones of the name, any number standing for ``{layer}``."""
    tail = name[-len(words) :]
    return len(tail) == len(words) and all(
        word.isdigit() if other == _LAYER else word == other for word, other in zip(words, tail, strict=True)
    )


def _refuse_single_experts(module: str, entries: tuple[str, ...]) -> None:
    before, found, _ = module.partition(f".{_EXPERT}")
    if not found:
        return
    single = re.compile(rf"(?:^|\.){re.escape(before.rpartition('.')[2])}\.\d")
    for entry in entries:
        if single.search(entry):
            raise UnsupportedModelError(
                f"modules_to_not_convert names single experts ({entry}), which is not planned yet",
                "An entry for all experts of a layer is",
            )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that takes microseconds for any name: tried at every start of each repetition, three go through 10**5
    ways at most, while repeated groups can go through 2**80.
    """
    if len(_REPETITION.findall(pattern)) > 3 or _REPEATED_GROUP.search(pattern):
        raise UnsupportedModelError(
            f"config.json: quantization_config.ignore holds re:{shown(pattern)}, which could take for ever",
            "Patterns may repeat three times (*, +, {}), and no groups",
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        message = f"config.json: quantization_config.ignore holds re:{shown(pattern)}, no regular expression: {error}"
        raise ConfigError(message) from None


@lru_cache(maxsize=16384)
def _without_numbers(name: str) -> str:
    return _NUMBER.sub("#", name)
