"""The shipped table is parsed piece by piece: each piece is what it is in the whole file."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from planner.data import read_toml
from planner.kinds import EngineName
from planner.lmdeploy import versions
from planner.lmdeploy.rules import ChatRules, DefaultBatch, PytorchRules, TrustRemoteCode, TurbomindRules
from planner.lmdeploy.table import Table, TableError, shipped, span

WHOLE = read_toml("lmdeploy.toml")
BANDS: list[tuple[Any, tuple[str, ...]]] = [
    (TurbomindRules, versions.TURBOMIND),
    (PytorchRules, versions.PYTORCH),
    (DefaultBatch, ("max_batch_size",)),
    (ChatRules, ("chat",)),
    (TrustRemoteCode, ("cli.trust_remote_code",)),
]


@pytest.mark.parametrize(("schema", "sections"), BANDS, ids=[schema.__name__ for schema, _ in BANDS])
def test_every_band_is_as_in_the_whole_file(schema: Any, sections: tuple[str, ...]) -> None:
    whole = Table(WHOLE)
    bands = [entry for section in sections for entry in whole.at(section)]
    firsts = {first for entry in bands if (first := span(entry["versions"])[0]) is not None}
    assert firsts
    for version in sorted(firsts):
        assert shipped().rules(schema, sections, version) == whole.rules(schema, sections, version)


def test_every_architecture_is_as_in_the_whole_file() -> None:
    for entry in WHOLE["turbomind"]["architectures"]["list"]:
        assert shipped().named("turbomind.architectures.list", entry["name"]) == entry
    assert shipped().named("turbomind.architectures.list", "NoSuchForCausalLM") is None


@pytest.mark.parametrize("engine", EngineName)
@pytest.mark.parametrize("version", ["0.4.0", "0.6.3", "0.12.2", "0.14.0", "0.16.0", "0.18.0"])
def test_an_engine_takes_what_its_list_holds(engine: EngineName, version: str) -> None:
    names = {entry["name"] for entry in WHOLE["turbomind"]["architectures"]["list"]}
    names |= {*WHOLE["pytorch"]["architectures"]["list"], "NoSuchForCausalLM"}
    taken = {name for name in names if versions.takes(engine, name, Version(version))}
    assert taken == set(versions.architectures(engine, Version(version)))


def test_every_option_is_as_in_the_whole_file() -> None:
    for entry in WHOLE["cli"]["options"]:
        assert shipped().named("cli.options", entry["name"]) == entry
    for name in ("", "--none", "--tp ", '--trust-remote-code", api_server = [">=0.13.0"], chat = [">=0.4.0,<0.6.0'):
        assert shipped().named("cli.options", name) is None


@pytest.mark.parametrize("path", ["oldest", "newest", "turbomind.architectures", "cli.common", "cli.choices", "chat"])
def test_every_other_piece_is_as_in_the_whole_file(path: str) -> None:
    assert shipped().at(path) == Table(WHOLE).at(path)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(TableError, match=r"lmdeploy.toml \[cli.nothing\]: there is no nothing"):
        shipped().at("cli.nothing")
