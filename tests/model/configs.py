"""Configs of the catalog, with a few keys changed."""

from __future__ import annotations

from typing import Any

from planner.model import catalog
from planner.model.arch.registry import read_language_model, read_spec
from planner.model.spec import ModelSpec, TextModel


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    entry = catalog.load(name)
    assert entry is not None, name
    changed = {**entry.config, **changes}
    return {key: value for key, value in changed.items() if value != "removed"}


def text_of(name: str, **changes: Any) -> TextModel:
    return read_language_model(config_of(name, **changes))


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return read_spec(config_of(name, **changes), name)
