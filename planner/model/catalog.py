"""The shipped catalog of published models: one file each, `planner/data/models/<name>.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from planner.data import ROOT, read_json

_FOLDER = "models"
# The bound keeps the file name within what file systems allow.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SEPARATORS = str.maketrans("._", "--")


class CatalogEntry(NamedTuple):
    """A published model.

    Attributes:
        name: what users type, and the name of its file.
        hf_id: the Hugging Face repository that `config` is of.
        aliases: other names of the same shapes, such as the chat variant's.
        source: where `config` was read.
        published: the exact totals that prove `config`, None where nobody publishes one, and their source.
        config: the published config.json.
    """

    name: str
    hf_id: str
    aliases: tuple[str, ...]
    source: str
    published: dict[str, Any]
    config: dict[str, Any]


def load(name: str) -> CatalogEntry | None:
    """The entry of a name, an alias or a Hugging Face id, case aside, or None.

    The name of a file is found without opening any other. Separators count only where they tell entries
    apart, so that ``InternLM2.5-7B-chat`` finds ``internlm2_5-7b-chat``.
    """
    wanted = name.strip().lower()
    if has(wanted):
        return _read(wanted)
    if not wanted:
        return None
    alike: list[CatalogEntry] = []
    for entry in entries():
        known = [text.lower() for text in (entry.name, entry.hf_id, *entry.aliases)]
        if wanted in known:
            return entry
        if wanted.translate(_SEPARATORS) in (text.translate(_SEPARATORS) for text in known):
            alike.append(entry)
    return alike[0] if len(alike) == 1 else None


def has(name: str) -> bool:
    """Whether there is an entry of exactly that name, case aside; opens no file."""
    wanted = name.lower()
    return bool(_NAME.fullmatch(wanted)) and (ROOT / _FOLDER / f"{wanted}.json").is_file()


def names() -> list[str]:
    """The name of every entry, sorted."""
    return sorted(path.stem for path in (ROOT / _FOLDER).glob("*.json"))


def entries() -> Iterator[CatalogEntry]:
    """Every entry, by name."""
    return map(_read, names())


def _read(name: str) -> CatalogEntry:
    data = read_json(f"{_FOLDER}/{name}.json")
    return CatalogEntry(
        name=data["name"],
        hf_id=data["hf_id"],
        aliases=tuple(data["aliases"]),
        source=data["source"],
        published=data["published"],
        config=data["config"],
    )
