"""Which of LMDeploy's defaults a search may give up, from the defaults to the leanest settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final, NamedTuple

from planner.advise.candidates import Knobs, Pins
from planner.lmdeploy.settings import DEFAULT_MAX_PREFILL_TOKEN_NUM
from planner.request import Load

PREFILL_TOKENS: Final = (DEFAULT_MAX_PREFILL_TOKEN_NUM, 4096, 2048, 1024, 512)


class Ladder(NamedTuple):
    """The values that each setting may take, most first; None leaves it to LMDeploy. What is pinned has one value.

    Attributes:
        sessions: LMDeploy's own length, and that of the load.
        batches: LMDeploy's own, halved down to the users.
        prefills: LMDeploy's own, halved down to 512 tokens.
    """

    sessions: tuple[int | None, ...]
    batches: tuple[int | None, ...]
    prefills: tuple[int | None, ...]

    @property
    def defaults(self) -> Knobs:
        """As LMDeploy has them."""
        return Knobs(self.sessions[0], self.batches[0], self.prefills[0])

    @property
    def leanest(self) -> Knobs:
        """What leaves the KV cache most. What cannot serve with these serves with none."""
        return Knobs(self.sessions[-1], self.batches[-1], self.prefills[-1])

    def combinations(self) -> Iterator[Knobs]:
        """Every combination, the defaults first and the leanest last."""
        for prefill, batch, session in product(self.prefills, self.batches, self.sessions):
            yield Knobs(session, batch, prefill)


def ladder(load: Load, pins: Pins, default_batch: int, prefill_is_an_option: bool) -> Ladder:
    """The values to try for a load."""
    prefills: tuple[int | None, ...] = (pins.max_prefill_token_num,)
    if pins.max_prefill_token_num is None and prefill_is_an_option:
        prefills = (None, *PREFILL_TOKENS[1:])
    return Ladder(
        sessions=(None, load.context_tokens) if pins.session_len is None else (pins.session_len,),
        batches=_batches(load.num_users, default_batch) if pins.max_batch_size is None else (pins.max_batch_size,),
        prefills=prefills,
    )


def _batches(num_users: int, default_batch: int) -> tuple[int | None, ...]:
    if num_users > default_batch:
        return tuple(dict.fromkeys((1 << (num_users - 1).bit_length(), num_users)))
    powers = (1 << n for n in reversed(range(default_batch.bit_length())))
    halved = [size for size in powers if num_users < size < default_batch]
    return (None, *halved, *([num_users] if num_users < default_batch else []))
