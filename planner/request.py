"""What a user asks of a plan: the memory that is free, and the load to serve."""

from __future__ import annotations

from typing import Final, NamedTuple

from planner.errors import UsageError
from planner.hardware.gpu import Gpu
from planner.model.spec import ModelSpec
from planner.units import parse_bytes

DEFAULT_CONTEXT_TOKENS: Final = 8192
"""Tokens of a session where none are asked for."""


class Load(NamedTuple):
    """What has to be served: `num_users` sessions at once, of `context_tokens` tokens each, images included.

    `latency_ms` is the longest time between two tokens of a user, `first_token_ms` that until the first, None for any.
    """

    context_tokens: int
    num_users: int
    num_images: int = 0
    latency_ms: float | None = None
    first_token_ms: float | None = None
    keep_quality: bool = False


def default_images(spec: ModelSpec, context_tokens: int) -> int:
    """Images in a session where none are asked for: one for a model that sees, as far as the session holds it."""
    return int(spec.vision is not None and context_tokens > spec.vision.max_image_tokens)


def find_free_bytes(free: str | int | None, gpu: Gpu) -> int:
    """A ``--free`` value in bytes; the whole card by default."""
    if free is None:
        return gpu.memory_total_bytes
    try:
        free_bytes = parse_bytes(free) if isinstance(free, str) else free
    except ValueError as error:
        raise UsageError(f"--free: {error}") from None
    if not 0 < free_bytes <= gpu.memory_total_bytes:
        raise UsageError(f"--free is {free}; expected at most the {gpu.memory_total_bytes} bytes that {gpu.name} has")
    return free_bytes
