"""The GPU catalog."""

from __future__ import annotations

from collections import Counter

import pytest

from planner.data import read_toml
from planner.errors import UsageError
from planner.hardware.gpu import Gpu, catalog, find_gpu
from planner.units import GIB

GPUS = list(catalog())
CARDS = [gpu for gpu in GPUS if not gpu.slice_of]


def _name(gpu: Gpu) -> str:
    return gpu.name


def test_the_catalog_holds_what_people_serve_on() -> None:
    assert len(CARDS) >= 30
    wanted = "v100-16g v100-32g t4 rtx-2080-ti rtx-3090 rtx-4090 rtx-5090 a10 a16 a30 a40 l4 l20 l40s a100-40g a100-80g"
    wanted += " a800 h20 h100 h100-nvl h800 h200 b200 a100-24g"
    for name in wanted.split():
        assert find_gpu(name).memory_total_bytes > 0


@pytest.mark.parametrize("gpu", GPUS, ids=_name)
def test_every_gpu_has_its_numbers_and_their_sources(gpu: Gpu) -> None:
    assert gpu.product
    assert gpu.memory_source
    assert gpu.spec_source
    assert GIB < gpu.memory_total_bytes < 300 * GIB
    assert 70 <= gpu.compute_capability <= 130
    assert 10**11 < gpu.memory_bandwidth_bytes_per_s * 8 < 10**14
    assert gpu.peak_fp16_flops_per_s > 0
    assert gpu.peak_fp16_flops_per_s < 10**16
    if not gpu.has_bf16:
        assert gpu.peak_bf16_flops_per_s == 0


@pytest.mark.parametrize("gpu", [gpu for gpu in GPUS if gpu.slice_of], ids=_name)
def test_a_slice_is_smaller_than_its_card(gpu: Gpu) -> None:
    card = find_gpu(gpu.slice_of)
    assert not card.slice_of
    assert gpu.memory_total_bytes < card.memory_total_bytes
    assert gpu.memory_bandwidth_bytes_per_s <= card.memory_bandwidth_bytes_per_s
    assert gpu.peak_fp16_flops_per_s < card.peak_fp16_flops_per_s
    assert gpu.compute_capability == card.compute_capability


def test_no_name_means_two_gpus() -> None:
    names = [
        name for gpu in GPUS for name in {name.replace("-", "").replace(".", "") for name in (gpu.name, *gpu.aliases)}
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_slices_name_known_cards() -> None:
    data = read_toml("gpus.toml")
    assert all(entry["parent"] in data for entry in data["slices"].values())


@pytest.mark.parametrize(
    ("text", "name"),
    [("H200", "h200"), (" a100 ", "a100-80g"), ("RTX4090", "rtx-4090"), ("rtx_3090", "rtx-3090"), ("4090", "rtx-4090")],
)
def test_case_and_separators_do_not_count(text: str, name: str) -> None:
    assert find_gpu(text).name == name


def test_the_whole_card_has_the_plain_name() -> None:
    for name in ("h200", "a100-80g", "v100-32g"):
        assert find_gpu(name).slice_of == ""
    assert find_gpu("a100-24g").slice_of == "a100-80g"


def test_usable_bytes_are_fewer_than_the_nominal_ones() -> None:
    assert find_gpu("h200").memory_total_bytes == 150_109_880_320
    assert 79 * GIB < find_gpu("a100-80g").memory_total_bytes < 80 * GIB


@pytest.mark.parametrize("text", ["1.2.3GiB", "0GiB"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        find_gpu(text, 80)


def test_the_driver_name_of_every_card_finds_it() -> None:
    cards = [gpu for gpu in catalog() if not gpu.slice_of]
    assert len({gpu.product for gpu in cards}) == len(cards)
    for gpu in cards:
        assert find_gpu(gpu.product).name == gpu.name
    assert find_gpu("NVIDIA GeForce RTX 4090").name == "rtx-4090"


@pytest.mark.parametrize(("sm", "has_bf16"), [(70, False), (75, False), (80, True), (89, True), (120, True)])
def test_bfloat16_begins_with_compute_capability_8_0(sm: int, has_bf16: bool) -> None:
    assert find_gpu("24GiB", sm).has_bf16 is has_bf16


def test_what_the_driver_keeps_is_not_usable() -> None:
    told_by_nvml = {
        name: entry
        for name, entry in read_toml("gpus.toml").items()
        if name != "slices" and entry["memory_total_kind"] == "nvml" and entry.get("memory_reserved_bytes")
    }
    assert told_by_nvml
    for name, entry in told_by_nvml.items():
        usable_bytes = entry["memory_total_bytes"] - entry["memory_reserved_bytes"]
        assert find_gpu(name).memory_total_bytes == usable_bytes < entry["memory_total_bytes"]


def test_a_slice_has_its_share_of_the_rates_and_its_own_share_of_the_bandwidth() -> None:
    shares = read_toml("gpus.toml")["slices"]
    apart = {name for name, entry in shares.items() if entry.get("memory_share", entry["share"]) != entry["share"]}
    assert apart
    for name, entry in shares.items():
        card, part = find_gpu(entry["parent"]), find_gpu(name)
        assert part.peak_fp16_flops_per_s == round(card.peak_fp16_flops_per_s * entry["share"])
        share = entry["memory_share"] if name in apart else entry["share"]
        assert part.memory_bandwidth_bytes_per_s == round(card.memory_bandwidth_bytes_per_s * share)
