"""The table of what changed in which LMDeploy version."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from packaging.version import Version

from planner.data import read_toml
from planner.errors import UsageError
from planner.lmdeploy import versions

RELEASES = """
    0.4.0 0.4.1 0.4.2 0.5.0 0.5.1 0.5.2 0.5.2.post1 0.5.3 0.6.0 0.6.1 0.6.2 0.6.2.post1 0.6.3 0.6.4 0.6.5
    0.7.0 0.7.0.post3 0.7.1 0.7.2 0.7.2.post1 0.7.3 0.8.0 0.9.0 0.9.1 0.9.2 0.9.2.post1 0.10.0 0.10.1 0.10.2
    0.11.0 0.11.1 0.12.0 0.12.1 0.12.2 0.12.3 0.13.0 0.14.0 0.15.0 0.16.0 0.17.0 0.18.0
""".split()  # noqa: SIM905
TABLE = read_toml("lmdeploy.toml")
TURBOMIND_SUBJECTS = ("kv_budget", "kv_layout", "workspace", "sharding", "support")


def _band_arrays() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every array of tables with a `versions` key that has to cover all versions."""
    for name, value in TABLE["turbomind"].items():
        if isinstance(value, list) and value and "versions" in value[0]:
            yield f"turbomind.{name}", value
    for name in ("max_batch_size", "chat"):
        yield name, TABLE[name]
    yield "cli.trust_remote_code", TABLE["cli"]["trust_remote_code"]
    for option, bands in TABLE["cli"]["choices"].items():
        if option not in ("--dtype", "--communicator"):  # came with 0.6.1 and 0.7.2
            yield f"cli.choices {option}", bands


ARRAYS = dict(_band_arrays())


def test_every_subject_is_checked() -> None:
    assert {f"turbomind.{subject}" for subject in TURBOMIND_SUBJECTS} <= ARRAYS.keys()


@pytest.mark.parametrize("name", ARRAYS)
def test_bands_cover_every_version_once(name: str) -> None:
    for text in RELEASES:
        held = [entry for entry in ARRAYS[name] if versions.holds(entry["versions"], Version(text))]
        assert len(held) == 1, f"{name} has {len(held)} entries for {text}"


@pytest.mark.parametrize("name", ARRAYS)
def test_bands_meet_end_to_start(name: str) -> None:
    bands = [entry["versions"].split(",") for entry in ARRAYS[name]]
    assert bands[0][0] == f">={TABLE['oldest']}"
    for before, after in pairwise(bands):
        assert before[1].removeprefix("<") == after[0].removeprefix(">=")
    assert len(bands[-1]) == 1, "the last band is open: newer versions take it until somebody reads them"


@pytest.mark.parametrize("name", [name for name in ARRAYS if name.startswith("turbomind.")])
def test_every_entry_names_its_source(name: str) -> None:
    assert all(entry.get("source") for entry in ARRAYS[name])


@pytest.mark.parametrize("text", RELEASES)
def test_rules_of_every_version_can_be_read(text: str) -> None:
    rules = versions.turbomind_rules(versions.resolve(text).rules)
    assert rules.kv_allocator == ("slabs" if Version(text) >= Version("0.15.0") else "blocks")
    assert rules.default_cache_max_entry_count == 0.8
    assert rules.block_tokens == 64
    assert {"LlamaForCausalLM", "InternLM2ForCausalLM"} <= set(versions.turbomind_architectures(Version(text)))


@pytest.mark.parametrize(
    ("text", "free_sampled"),
    [
        ("0.5.3", "after_weights"),
        ("0.6.0", "after_weights_and_workspaces"),
        ("0.11.1", "after_weights_and_workspaces"),
        ("0.12.0", "after_model"),
        ("0.14.0", "after_model"),
        ("0.15.0", "after_weights_and_gemm_workspace"),
        ("0.17.0", "after_weights_and_gemm_workspace"),
        ("0.18.0", "after_weights"),
    ],
)
def test_when_free_memory_is_read(text: str, free_sampled: str) -> None:
    assert versions.turbomind_rules(Version(text)).free_sampled == free_sampled


@pytest.mark.parametrize(
    ("text", "product", "batch"),
    [
        ("0.5.3", "NVIDIA A100-SXM4-80GB", 128),
        ("0.5.3", "NVIDIA H100 80GB HBM3", 128),
        ("0.6.0", "NVIDIA A100-SXM4-80GB", 256),
        ("0.9.2", "NVIDIA H100 80GB HBM3", 512),
        ("0.9.2", "NVIDIA H200", 128),
        ("0.10.0", "NVIDIA A100-SXM4-80GB", 384),
        ("0.10.0", "NVIDIA A800-SXM4-80GB", 384),
        ("0.18.0", "NVIDIA H200", 1024),
        ("0.18.0", "NVIDIA H100 80GB HBM3", 1024),
        ("0.18.0", "NVIDIA GeForce RTX 4090", 128),
        ("0.18.0", "", 128),
    ],
)
def test_default_batch_of_a_gpu(text: str, product: str, batch: int) -> None:
    assert versions.default_max_batch_size(Version(text), product) == batch


def test_no_version_means_the_newest() -> None:
    assert versions.resolve(None).version == versions.newest() == "0.18.0"
    assert versions.resolve(None).note == ""


@pytest.mark.parametrize("text", ["0.18.1", "0.19.0", "1.0", "2.3.4.post5"])
def test_a_newer_version_takes_the_newest_rules_and_says_so(text: str) -> None:
    resolved = versions.resolve(text)
    assert resolved.rules == Version("0.18.0")
    assert resolved.version == text
    assert text in resolved.note
    assert "0.18.0" in resolved.note


@pytest.mark.parametrize("text", ["0.3.0", "0.2.6", "0.1", "0.4.0rc1"])
def test_an_older_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="older than what lmplan knows") as caught:
        versions.resolve(text)
    assert "0.4.0 to 0.18.0" in caught.value.hint


@pytest.mark.parametrize("text", ["latest", "", "0.5.x", "v", "0.5.3 0.6"])
def test_what_is_not_a_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a version"):
        versions.resolve(text)


@pytest.mark.parametrize(("text", "rules"), [("0.6.0a0", "0.6.0"), ("0.18.0.post1", "0.18.0"), ("v0.5.3", "0.5.3")])
def test_other_spellings_of_a_release(text: str, rules: str) -> None:
    assert versions.resolve(text).rules == Version(rules)
    assert versions.resolve(text).note == ""


def test_the_pytorch_engine_is_known_for_one_version() -> None:
    assert "LlamaForCausalLM" in versions.pytorch_architectures(Version("0.18.0"))
    assert versions.pytorch_architectures(Version("0.5.3")) == ()
    with pytest.raises(UsageError, match="does not know the rules"):
        versions.band(TABLE["pytorch"]["kv_budget"], Version("0.17.0"))


def test_options_come_and_go() -> None:
    assert not versions.has_option("--max-prefill-token-num", Version("0.5.3"))
    assert versions.has_option("--max-prefill-token-num", Version("0.6.0"))
    assert not versions.has_option("--trust-remote-code", Version("0.12.3"))
    assert versions.has_option("--trust-remote-code", Version("0.13.0"))
    assert not versions.has_option("--no-such-option", Version("0.18.0"))
