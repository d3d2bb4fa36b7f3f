"""Kinds of a union are named tuples, which are equal where their values are: none may ever be equal to another kind."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from planner.model.layers import Attention, DenseMlp, Mlp, MoeMlp


@pytest.mark.parametrize("union", [Attention, Mlp], ids=["Attention", "Mlp"])
def test_kinds_of_a_union_differ_in_their_number_of_fields(union: Any) -> None:
    kinds = get_args(union)
    assert len(kinds) > 1
    assert len({len(kind._fields) for kind in kinds}) == len(kinds)


def test_a_record_with_other_values_is_another() -> None:
    assert DenseMlp(4096) == DenseMlp(4096, bias=False) != DenseMlp(4096, bias=True)
    assert {MoeMlp(8, 2, 1024), MoeMlp(8, 2, 1024), MoeMlp(8, 2, 2048)} == {MoeMlp(8, 2, 1024), MoeMlp(8, 2, 2048)}
