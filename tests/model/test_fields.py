"""Typed reading of config.json: what passes, and what is said of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from planner.errors import ConfigError
from planner.model.fields import MAX_COUNT, MAX_DIMENSION, Fields

HUGE = 10**4000


def test_what_is_right_is_read() -> None:
    fields = Fields(
        {"n": 5, "b": False, "x": 0.5, "i": 1, "t": "text", "l": [0, 3], "ts": ["a"], "s": {"n": 7}, "null": None}
    )
    assert fields.integer("n") == 5
    assert fields.count("n") == 5
    assert fields.optional_integer("n") == 5
    assert fields.optional_integer("null") is None
    assert fields.optional_integer("gone") is None
    assert fields.boolean("b") is False
    assert fields.boolean("gone", True) is True
    assert fields.boolean("null", True) is True
    assert fields.number("x", minimum=0, maximum=1) == 0.5
    assert fields.number("i", minimum=0, maximum=1) == 1.0
    assert fields.text("t") == "text"
    assert fields.choice("t", ("text", "other")) == "text"
    assert fields.integers("l") == (0, 3)
    assert fields.integers("gone") == ()
    assert fields.texts("null") == ()
    assert fields.texts("ts") == ("a",)
    assert fields.section("s").integer("n") == 7
    assert fields.has("n")
    assert not fields.has("null")


def test_bounds() -> None:
    assert Fields({"n": MAX_DIMENSION}).integer("n") == MAX_DIMENSION
    assert Fields({"n": MAX_COUNT}).count("n") == MAX_COUNT
    assert Fields({"n": 0}).integer("n", minimum=0) == 0


WRONG: list[tuple[Callable[[Fields], object], object, str]] = [
    *((lambda f: f.integer("k"), value, "an integer from 1 to 16777216") for value in (0, -1, 1.0, True, "5", [5])),
    *((lambda f: f.integer("k"), value, "an integer from") for value in (MAX_DIMENSION + 1, HUGE, float("nan"), {})),
    (lambda f: f.count("k"), MAX_COUNT + 1, "an integer from 1 to 16384"),
    (lambda f: f.optional_integer("k"), "", "an integer from"),
    *((lambda f: f.boolean("k", True), value, "true or false") for value in (0, 1, "true", [])),
    *((lambda f: f.number("k", minimum=0, maximum=1), v, "a number from 0 to 1") for v in (True, "0.5", 2, -0.1)),
    *((lambda f: f.number("k", minimum=0, maximum=1), v, "a number") for v in (float("nan"), float("inf"), HUGE)),
    (lambda f: f.text("k"), 5, "a text"),
    (lambda f: f.choice("k", ("a", "b")), "c", "one of a, b"),
    (lambda f: f.choice("k", ("a", "b")), ["a"], "one of a, b"),
    *((lambda f: f.integers("k"), value, "a list of integers") for value in (5, "5", [-1], [1.0], [True], [HUGE])),
    *((lambda f: f.texts("k"), value, "a list of texts") for value in ("a", [1], [None])),
    *((lambda f: f.section("k"), value, "an object") for value in (5, [], "x")),
]


@pytest.mark.parametrize(("read", "value", "expected"), WRONG)
def test_what_is_wrong_is_said(read: Callable[[Fields], object], value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Fields({"k": value}, "llm_config"))
    message = caught.value.message
    assert message.startswith("config.json: llm_config.k is ")
    assert expected in message
    assert len(message) < 200
    assert "\n" not in message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Fields({"k": "x" * 10**6}).integer("k")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "read",
    [
        lambda f: f.integer("k"),
        lambda f: f.count("k"),
        lambda f: f.boolean("k"),
        lambda f: f.number("k", minimum=0, maximum=1),
        lambda f: f.text("k"),
        lambda f: f.choice("k", ("a",)),
        lambda f: f.section("k"),
    ],
)
@pytest.mark.parametrize(("values", "state"), [({}, "missing"), ({"k": None}, "null")])
def test_what_is_missing_is_said(read: Callable[[Fields], object], values: dict[str, Any], state: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"config.json: k is {state}; expected ")):
        read(Fields(values))


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [5], {}, [""], ["a\nb"], ["x" * 1000]])
def test_architectures(value: object) -> None:
    assert Fields({"architectures": ["A", "B"]}).architecture() == "A"
    with pytest.raises(ConfigError, match="architectures"):
        Fields({"architectures": value}).architecture()
