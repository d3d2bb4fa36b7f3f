"""The requests that TurboMind sends itself before it serves, one after the other."""

from __future__ import annotations

_TOKENS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Their lengths, logged by 0.18.0 ("Warm-up lengths"); the longest step is added."""


def longest(step_tokens: int, session_tokens: int, cache_tokens: int) -> int:
    """Tokens of the longest that runs: one that the session does not take is refused at once."""
    reachable = min(session_tokens, cache_tokens, step_tokens)
    return max((n for n in (*_TOKENS, step_tokens) if n <= reachable), default=min(_TOKENS[0], step_tokens))


def stalls_at(step_tokens: int, session_tokens: int, cache_tokens: int) -> int | None:
    """Tokens of the first that the session takes and the KV cache cannot hold, None for none.

    From 0.15 a session is not cut to what the cache holds, and while warming up such a request is neither admitted nor
    refused (`engine.cc`, FailStalledHeadOfLine, 0.15.0 and 0.16.0; two starts of 0.18.0 on an H200 hung so).
    """
    most = min(session_tokens, step_tokens)
    return min((n for n in (*_TOKENS, step_tokens) if cache_tokens < n <= most), default=None)
