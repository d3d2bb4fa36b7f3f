"""What beside the weights has to be the original's: the configuration and the tokenizer, as transformers load them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer


def config_differences(original: Path, result: Path, may_differ: frozenset[str], trust_remote_code: bool) -> list[str]:
    """``key: before -> after`` for each value that is not the original's, nested keys with dots.

    Args:
        original, result: folders with a config.json.
        may_differ: keys that say nothing of the model, wherever they stand and whether or not with a leading ``_``.
        trust_remote_code: run Python files that come with the models.
    """
    before, after = (
        dict(_flat(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).to_dict(), may_differ))
        for folder in (original, result)
    )
    lines = []
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key, "absent"), after.get(key, "absent")
        if one != other:
            lines.append(f"{key}: {one!s:.60} -> {other!s:.60}")
    return lines


def _flat(values: Mapping[Any, Any], may_differ: frozenset[str], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if str(key).lstrip("_") in may_differ:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, may_differ, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """A folder's tokenizer."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def tokenizer_differences(before: Any, after: Any, text: str) -> list[str]:
    """What of two tokenizers differs: the vocabulary, or the tokens of a text."""
    lines = []
    one, other = before.get_vocab(), after.get_vocab()
    if one != other:
        changed = sorted(token for token in one.keys() | other.keys() if one.get(token) != other.get(token))
        lines.append(f"{len(changed)} of {len(one)} tokens have another number, such as {changed[0]!r:.40}")
    elif before(text)["input_ids"] != after(text)["input_ids"]:
        lines.append("the same text gives other tokens")
    return lines
