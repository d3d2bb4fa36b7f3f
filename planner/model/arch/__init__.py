"""config.json -> ModelSpec. The only package where a Hugging Face key is spelled."""

from __future__ import annotations

from planner.model.arch.registry import KNOWN_LATER, READERS, read_spec

__all__ = ["KNOWN_LATER", "READERS", "read_spec"]
