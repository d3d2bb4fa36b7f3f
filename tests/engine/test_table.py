"""The version table against its schema: what cannot be used is named with file, section, band and key."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import planner
from planner.data import read_toml
from planner.kinds import EngineName
from planner.lmdeploy import rules, versions
from planner.lmdeploy.table import Table, TableError, holds, span

Change = Callable[[dict[str, Any]], None]


def _budget(data: dict[str, Any]) -> list[dict[str, Any]]:
    bands: list[dict[str, Any]] = data["turbomind"]["kv_budget"]
    return bands


def _set(index: int, **values: Any) -> Change:
    return lambda data: _budget(data)[index].update(values)


CHANGES: list[tuple[Change, str]] = [
    (
        _set(5, kv_allocator="slab"),
        r"lmdeploy.toml \[turbomind.kv_budget\] >=0.15.0,<0.18.0: kv_allocator is 'slab'; expected one of blocks",
    ),
    (_set(0, block_token=64), r"\[turbomind.kv_budget\] >=0.4.0,<0.4.1: block_token is read by nobody"),
    (lambda data: _budget(data)[2].pop("block_tokens"), r">=0.6.0,<0.10.0: block_tokens is missing"),
    (
        lambda data: [entry.pop("block_tokens") for entry in _budget(data)] and None,
        r"\[turbomind.kv_budget .*\]: no section says block_tokens",
    ),
    (_set(0, block_tokens="64"), r"block_tokens is '64'; expected int"),
    (_set(0, shortens_session_len=1), r"shortens_session_len is 1; expected bool"),
    (_set(0, block_tokens=True), r"block_tokens is True; expected int"),
    (_set(0, versions=">=0.4.0,<0.4.2"), r">=0.4.0,<0.4.2: overlaps the next, which begins with 0.4.1"),
    (_set(1, versions=">=0.4.1,<0.5.3"), r">=0.4.1,<0.5.3: leaves a gap before the next, which begins with 0.6.0"),
    (_set(1, versions=">=0.4.1"), r">=0.4.1: overlaps the next"),
    (_set(1, versions=["==0.4.1"]), r"versions is not one range"),
    (_set(1, versions="0.4.1"), r"'0.4.1' is no range of versions"),
    (_set(1, versions=">=0.6.0,<0.4.1"), r"holds no version"),
    (
        lambda data: [entry.update(vocab_multiple=1) for entry in _budget(data)] and None,
        r"\[turbomind.sharding\] .*: vocab_multiple is said elsewhere too",
    ),
    (lambda data: data["turbomind"].update(vison=[]), r"\[turbomind.vison\]: is read by nobody"),
    (lambda data: data["pytorch"].pop("cuda_graphs"), r"\[pytorch.cuda_graphs\]: there is no cuda_graphs"),
    (
        lambda data: data["cli"]["options"][0].update(apiserver=[]),
        r"\[cli.options\] --server-name: apiserver is read by nobody",
    ),
    (
        lambda data: data["turbomind"]["architectures"]["list"][0].pop("versions"),
        r"\[turbomind.architectures.list\] BaiChuanForCausalLM: versions is missing",
    ),
    (
        lambda data: data["turbomind"]["support"][0].update(formats=["hf", "awk"]),
        r"\[turbomind.support\] >=0.4.0,<0.6.0: formats is 'awk'; expected one of hf, llama, awq",
    ),
    (
        lambda data: data["pytorch"]["kv_layout"][0]["policies"][0].pop("k"),
        r"\[pytorch.kv_layout.policies\]: k is missing",
    ),
]


def test_the_shipped_table_is_whole() -> None:
    versions.check(Table(read_toml("lmdeploy.toml")))


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_what_cannot_be_used_is_named(change: Change, message: str) -> None:
    data = copy.deepcopy(read_toml("lmdeploy.toml"))
    change(data)
    with pytest.raises(TableError, match=message):
        versions.check(Table(data))


def test_a_section_is_checked_when_it_is_read() -> None:
    data = copy.deepcopy(read_toml("lmdeploy.toml"))
    _budget(data)[0]["block_token"] = 64
    with pytest.raises(TableError, match="block_token is read by nobody"):
        Table(data).rules(rules.TurbomindRules, versions.TURBOMIND, Version("0.4.0"))


def test_what_a_version_lacks_is_named_when_it_is_read() -> None:
    data = copy.deepcopy(read_toml("lmdeploy.toml"))
    del _budget(data)[-1]["block_tokens"]
    with pytest.raises(TableError, match="no section says block_tokens"):
        Table(data).rules(rules.TurbomindRules, versions.TURBOMIND, Version("0.18.0"))
    assert Table(data).rules(rules.TurbomindRules, versions.TURBOMIND, Version("0.4.0"))


@pytest.mark.parametrize("text", ["0.6.0", ">0.6.0", "~=0.6.0", ">=0.6.0,>=0.7.0", ">=0.6.0,<0.7.0,<0.8.0", ""])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(TableError):
        span(text)


def test_ranges() -> None:
    assert span(">=0.6") == (Version("0.6"), None)
    assert span("<0.7.1") == (None, Version("0.7.1"))
    inside = {text: holds(">=0.6.0,<0.6.2", Version(text)) for text in ("0.5.3", "0.6.0", "0.6.1.post1", "0.6.2")}
    assert inside == {"0.5.3": False, "0.6.0": True, "0.6.1.post1": True, "0.6.2": False}


def test_every_key_is_read_by_some_code() -> None:
    root = Path(planner.__file__).parent
    sources = [path for path in root.rglob("*.py") if path.name not in ("rules.py", "table.py", "words.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for schema in (rules.TurbomindRules, rules.PytorchRules, rules.ChatRules, rules.Cli):
        assert [key for key in schema._fields if key not in read] == []


@pytest.mark.parametrize("engine", EngineName)
def test_words_print_as_themselves(engine: EngineName) -> None:
    assert f"{engine}" == str(engine) == "".join([engine]) == engine.value
    assert f"{engine:>10}" == engine.value.rjust(10)
    assert engine in {engine.value}
