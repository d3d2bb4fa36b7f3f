"""What searching costs in one process: `python tests/benchmark_search.py`.

It prints the time for 10,000 candidates, and for a sweep of 200 models over 30 GPUs. Targets: under 2 s, under 10 s.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from planner.advise.candidates import Offer
from planner.advise.search import Search
from planner.errors import LmplanError
from planner.fleet.described import Fleet, Machines, Workload
from planner.fleet.placement import sweep
from planner.hardware.gpu import catalog as gpu_catalog
from planner.lmdeploy import versions
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.source import resolve
from planner.request import Load

CANDIDATES = 10_000


def candidates_seconds() -> float:
    """Weigh 10,000 candidates of one model over the catalog's GPUs."""
    spec = read_spec(resolve("internlm2_5-7b").config, "internlm2_5-7b")
    version, load = versions.resolve(None), Load(8192, 16)
    searches = [Search(spec, Offer(gpu, gpu.memory_total_bytes), version) for gpu in gpu_catalog()]

    def each() -> Iterator[None]:
        for search in searches:
            for option, knobs in itertools.product(search.options, search.ladder(load).combinations()):
                try:
                    search.weigh(option, knobs, load)
                except LmplanError:
                    continue
                yield

    start = time.perf_counter()
    count = sum(1 for _ in itertools.islice(each(), CANDIDATES))
    assert count == CANDIDATES
    return time.perf_counter() - start


def sweep_seconds() -> tuple[float, int, int]:
    """A sweep of 200 workloads over 30 kinds of GPU."""
    version = versions.resolve(None)
    known = []
    for entry in catalog.entries():
        try:
            known.append((entry.name, resolve(entry.name), read_spec(entry.config, entry.name)))
        except LmplanError:
            continue
    workloads = []
    for i in range(200):
        name, source, spec = known[i % len(known)]
        context = min(2048 * (1 + i % 8), spec.text.max_position_embeddings)
        workloads.append(Workload(f"{name}-{i}", source, spec, Load(context, 1 + 7 * i % 64), version))
    cards = [gpu for gpu in gpu_catalog() if not gpu.slice_of][:30]
    machines = tuple(Machines(gpu.name, gpu, gpu.memory_total_bytes, 8) for gpu in cards)
    start = time.perf_counter()
    found = sweep(Fleet(tuple(workloads), machines))
    return time.perf_counter() - start, len(found.cells), len(found.slots)


def main() -> None:
    print(f"{CANDIDATES:,} candidates            {candidates_seconds():6.2f} s (under 2)")
    seconds, cells, slots = sweep_seconds()
    print(f"sweep of 200 models x 30 GPUs {seconds:5.2f} s (under 10): {cells:,} pairs, {slots} placed")


if __name__ == "__main__":
    main()
