"""Sizes in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.units import GIB, MIB, ceil_div, ceil_pow2, counted, format_bytes, format_gib, parse_bytes, round_up


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("24GiB", 24 * GIB),
        ("24GB", 24 * 10**9),
        (" 1.5 gib ", 3 * GIB // 2),
        ("512MiB", 512 * MIB),
        ("512mb", 512 * 10**6),
        ("7b", 7),
        ("1TiB", 1024 * GIB),
    ],
)
def test_a_size_with_its_unit(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "24", "GiB", "-1GiB", "0GiB", "24 G i B", "24GX", "1e3GiB", "inf GiB", "9" * 400 + "GiB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|has the unknown unit"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (512, "512 B"), (1024, "1.0 KiB"), (8 * MIB, "8.0 MiB"), (GIB + GIB // 2, "1.50 GiB")],
)
def test_bytes_for_people(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


def test_gib_has_two_digits_unless_told() -> None:
    assert format_gib(GIB) == "1.00 GiB"
    assert format_gib(GIB, 3) == "1.000 GiB"


@given(st.integers(0, 2**60), st.integers(1, 2**40))
def test_rounding_up(value: int, multiple: int) -> None:
    assert round_up(value, multiple) % multiple == 0
    assert 0 <= round_up(value, multiple) - value < multiple
    assert ceil_div(value, multiple) * multiple == round_up(value, multiple)


@given(st.integers(1, 2**60))
def test_powers_of_two(value: int) -> None:
    power = ceil_pow2(value)
    assert power.bit_count() == 1
    assert power // 2 < value <= power


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (56832, "56,832 tokens")]
)
def test_a_number_with_its_noun(number: int, text: str) -> None:
    assert counted(number, "token") == text
