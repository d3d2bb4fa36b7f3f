"""What runs where: nothing is promised twice, sharing leaves room for growth, the order of starting counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.engine.base import Deployment
from planner.fleet.described import Fleet, Machines, Shared, Workload
from planner.fleet.placement import Slot, Sweep, sweep
from planner.footprint import estimate_memory
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.request import Load
from tests.examples import examples

Plan = Callable[[str], Sweep]
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "internlm2_5-1_8b", "qwen3-4b", "internlm2_5-7b", "internvl2-2b")


def workload(name: str, model: str, users: int, context: int, version: str = "0.18.0") -> Workload:
    source = resolve(model)
    spec = read_spec(source.config, model)
    images = 1 if spec.vision and context > spec.vision.max_image_tokens else 0
    return Workload(name, source, spec, Load(context, users, images), versions.resolve(version))


def machines(gpu: str, count: int | None = 1, each: int = 1) -> Machines:
    card = find_gpu(gpu)
    return Machines(gpu, card, card.memory_total_bytes, each, count)


def check(slot: Slot) -> None:
    """Every process of a GPU starts and serves, whether those before have grown by then or not."""
    nominal = grown = 0
    for process in slot.processes:
        for taken in (nominal, grown):
            free = slot.machines.free_bytes - taken
            memory = estimate_memory(
                Deployment(process.workload.spec, slot.machines.gpu, free, process.candidate.settings)
            )
            load = process.workload.load
            assert memory.fits, (process.workload.name, memory.reasons)
            assert memory.max_sequences(load.context_tokens) >= load.num_users
            # However much the engine found free, all of them at their largest stay on the card.
            assert grown + memory.worst_bytes <= slot.machines.free_bytes
        nominal += process.memory.total_bytes
        grown += process.grown_bytes
        assert process.grown_bytes >= process.memory.total_bytes
    assert grown <= slot.machines.free_bytes


def test_models_on_one_gpu_start_in_order_and_read_what_is_left(plan: Plan, fleet_text: str) -> None:
    found = plan(fleet_text)
    assert not found.unplaced
    shared = next(slot for slot in found.slots if len(slot.processes) == 2)
    first, second = shared.processes
    assert (first.workload.name, second.workload.name) == ("small", "vision")
    assert first.free_before_bytes == shared.machines.free_bytes
    assert second.free_before_bytes == shared.machines.free_bytes - first.grown_bytes
    # The first takes no more than its load, the last what is left.
    assert first.candidate.settings.cache_max_entry_count < 0.1
    assert second.candidate.settings.cache_max_entry_count > 0.9
    for slot in found.slots:
        check(slot)


def test_the_order_of_starting_counts() -> None:
    one, two = workload("one", "qwen2.5-1.5b", 8, 8192), workload("two", "internlm2_5-7b", 4, 8192)
    card = machines("rtx-4090")
    found = {
        order: sweep(Fleet((one, two), (card,), (Shared("rtx-4090", order),))).slots[0].processes
        for order in (("one", "two"), ("two", "one"))
    }
    ratios = {
        order: {p.workload.name: p.candidate.settings.cache_max_entry_count for p in processes}
        for order, processes in found.items()
    }
    assert [len(processes) for processes in found.values()] == [2, 2]
    assert ratios["one", "two"]["one"] < ratios["two", "one"]["one"]
    for order in found:
        check(sweep(Fleet((one, two), (card,), (Shared("rtx-4090", order),))).slots[0])


def test_what_does_not_fit_after_another_is_said_with_what_came_before() -> None:
    one, two = workload("one", "internlm2_5-7b", 4, 8192), workload("two", "qwen2.5-32b", 8, 8192)
    found = sweep(Fleet((one, two), (machines("rtx-4090"),), (Shared("rtx-4090", ("one", "two")),)))
    ((lacking, reason),) = found.unplaced
    assert lacking.name == "two"
    assert "short" in reason and "on rtx-4090 after one" in reason


def test_gpus_are_counted_and_never_more_than_there_are(plan: Plan, fleet_text: str) -> None:
    found = plan(fleet_text)
    for kind in found.fleet.machines:
        assert kind.num_gpus is not None
        assert found.needed(kind) <= kind.num_gpus
        assert found.needed(kind) == sum(s.num_gpus for s in found.slots if s.machines is kind)
    few = plan(fleet_text.replace("gpus_each: 8", "gpus_each: 3"))
    # What is left over falls back to the smaller cards, quantized, before anything goes without.
    assert {slot.machines.name for slot in few.slots} == {"a10", "dgx"}


def test_without_a_count_the_answer_is_how_many_are_needed(plan: Plan, fleet_text: str) -> None:
    text = fleet_text.replace("    count: 1\n", "").replace("copies: 3", "copies: 40").partition("together")[0]
    found = plan(text)
    assert not found.unplaced
    assert sum(found.needed(kind) for kind in found.fleet.machines) == 43


def test_a_model_of_several_gpus_stays_within_a_machine() -> None:
    many = workload("many", "llama-3.1-70b", 4, 4096)
    found = sweep(Fleet((many,), (machines("a10", count=8, each=2),)))
    ((_, reason),) = found.unplaced
    assert "short" in reason
    found = sweep(Fleet((many,), (machines("a10", count=2, each=4),)))
    assert [slot.num_gpus for slot in found.slots] == [4]


def test_sharing_takes_fewer_gpus() -> None:
    loads = tuple(workload(f"w{i}", MODELS[i % 3], 4, 4096) for i in range(9))
    alone = sweep(Fleet(loads, (machines("a100-80g", None),)))
    together = sweep(Fleet(loads, (machines("a100-80g", None),), share=True))
    assert len(alone.slots) == 9
    assert len(together.slots) < 3
    for slot in (*alone.slots, *together.slots):
        check(slot)


def test_kinds_that_a_workload_does_not_allow_are_left_out(plan: Plan, fleet_text: str) -> None:
    found = plan(fleet_text.replace("    copies: 3\n", "    copies: 3\n    gpus: a10\n"))
    homes = {slot.machines.name for slot in found.slots for p in slot.processes if p.workload.name == "chat"}
    assert homes == {"a10"}
    assert ("chat", "dgx") not in {(c.workload.name, c.machines.name) for c in found.cells}


@settings(deadline=None, max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(MODELS),
            st.integers(min_value=1, max_value=32),
            st.sampled_from([512, 2048, 4096, 8192]),
            st.sampled_from(["0.18.0", "0.12.3", "0.5.3"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["a10", "rtx-4090", "l40s", "a100-80g", "h200"]),
    st.booleans(),
)
def test_whatever_is_placed_serves(loads: list[tuple[str, int, int, str]], gpu: str, share: bool) -> None:
    known = {"internlm2_5-1_8b", "internlm2_5-7b"}
    loads = [(m, u, c, v if m in known else "0.18.0") for m, u, c, v in loads]
    fleet = Fleet(
        tuple(workload(f"w{i}", *load) for i, load in enumerate(loads)), (machines(gpu, count=3),), share=share
    )
    found = sweep(fleet)
    for slot in found.slots:
        check(slot)
    placed = [process.workload.name for slot in found.slots for process in slot.processes]
    lacking = [w.name for w, _ in found.unplaced]
    assert sorted(placed + lacking) == sorted(w.name for w in fleet.workloads)


@pytest.mark.parametrize("share", [False, True])
def test_every_copy_is_placed_or_named(share: bool) -> None:
    from dataclasses import replace

    one = replace(workload("one", "internlm2_5-7b", 4, 8192), copies=9)
    found = sweep(Fleet((one,), (machines("a10", count=2, each=2),), share=share))
    placed = sum(len(slot.processes) for slot in found.slots)
    assert placed + len(found.unplaced) == 9
    assert placed >= 4
