"""Many models on many GPUs: which plan each workload takes, on which GPU, and how many GPUs that makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from planner.advise.candidates import Candidate, Offer
from planner.advise.decision import confirm
from planner.advise.search import Search
from planner.artefacts.launch import api_server_command, served_name
from planner.errors import LmplanError
from planner.fleet.described import Fleet, Machines, Shared, Workload
from planner.footprint import MemoryEstimate
from planner.request import Load

_MAX_TRIES = 500
"""Starts that are tried for one GPU before its workloads are taken one by one: a second of work."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A workload on a kind of GPU by itself: the plan, or why there is none."""

    workload: Workload
    machines: Machines
    candidate: Candidate | None
    lack: str = ""

    @property
    def serves(self) -> bool:
        """Whether that kind serves it."""
        return self.candidate is not None and self.candidate.serves


@dataclass(frozen=True, slots=True)
class Process:
    """A workload started on a GPU.

    Attributes:
        free_before_bytes: what it finds free once those before it are at their largest.
        grown_bytes: what it holds at its largest.
        user_tokens_per_s: for one of its users; None where the GPU's rates are not known.
    """

    workload: Workload
    candidate: Candidate
    memory: MemoryEstimate
    free_before_bytes: int
    grown_bytes: int
    user_tokens_per_s: float | None

    @property
    def command(self) -> str:
        """What starts it."""
        return api_server_command(self.memory, served_name(self.workload.source))

    @property
    def free_after_bytes(self) -> int:
        """Free once this process is at its largest."""
        return self.free_before_bytes - self.grown_bytes


@dataclass(slots=True)
class Slot:
    """One GPU, or several that share a model, with its processes in start order."""

    machines: Machines
    num_gpus: int
    processes: list[Process] = field(default_factory=list)
    fixed: bool = False

    @property
    def free_bytes(self) -> int:
        """What the next process finds while those before have not grown yet."""
        return self.machines.free_bytes - sum(p.memory.total_bytes for p in self.processes)

    @property
    def growth_bytes(self) -> int:
        """What the processes may still grow by."""
        return sum(p.grown_bytes - p.memory.total_bytes for p in self.processes)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The answer for a fleet.

    Attributes:
        cells: every workload on every kind of GPU that it may use.
        slots: GPUs taken, with what runs on them.
        unplaced: copies of workloads that found no GPU, with the reason.
    """

    fleet: Fleet
    cells: tuple[Cell, ...]
    slots: tuple[Slot, ...]
    unplaced: tuple[tuple[Workload, str], ...]

    def needed(self, machines: Machines) -> int:
        """GPUs taken of a kind of machine."""
        return sum(slot.num_gpus for slot in self.slots if slot.machines is machines)


def sweep(fleet: Fleet) -> Sweep:
    """Plan a fleet. Workloads are placed in the order of the file, which is the order of their start."""
    cells = tuple(_cell(w, m) for w in fleet.workloads for m in fleet.machines if not w.gpus or m.gpu.name in w.gpus)
    floor = _Floor(fleet)
    unplaced: list[tuple[Workload, str]] = []
    named = {workload.name: workload for workload in fleet.workloads}
    placed: set[str] = set()
    for shared in fleet.shared:
        unplaced += floor.start_together(shared, [named[name] for name in shared.start])
        placed |= set(shared.start)
    for workload in fleet.workloads:
        if workload.name in placed:
            continue
        mine = sorted((c for c in cells if c.workload is workload and c.serves), key=_preference)
        for _ in range(workload.copies):
            reason = floor.place(workload, mine)
            if reason:
                why = reason if mine else _best_lack(c for c in cells if c.workload is workload)
                unplaced.append((workload, why))
    floor.fill_up()
    return Sweep(fleet, cells, tuple(floor.slots), tuple(unplaced))


def _cell(workload: Workload, machines: Machines) -> Cell:
    offer = Offer(machines.gpu, machines.free_bytes, machines.gpus_each)
    search = Search(workload.spec, offer, workload.lmdeploy, workload.engine)
    candidate = next(search.serving(workload.load), None)
    if candidate is not None:
        return Cell(workload, machines, candidate)
    nearest = search.nearest(workload.load)
    if nearest is not None:
        return Cell(workload, machines, nearest, nearest.lack)
    return Cell(workload, machines, None, _refusal(search, workload.load))


def _refusal(search: Search, load: Load) -> str:
    """Why LMDeploy takes none of the options."""
    for option in search.options:
        try:
            search.weigh(option, search.ladder(load).leanest, load)
        except LmplanError as error:
            return error.message
    return "no option keeps the quality" if load.keep_quality else "nothing to choose from"


def _preference(cell: Cell) -> tuple[int, ...]:
    """Fewest GPUs, least loss of quality, then the smallest card: larger ones are left to those that need them."""
    assert cell.candidate is not None
    return (*cell.candidate.offer.preference(cell.candidate.option), cell.machines.free_bytes)


def _best_lack(cells: Iterable[Cell]) -> str:
    nearest = min(
        (c for c in cells if c.candidate), key=lambda c: c.candidate.short_bytes if c.candidate else 0, default=None
    )
    return f"nearest on {nearest.machines.gpu.name}: {nearest.lack}" if nearest else "no kind of GPU takes it"


class _Floor:
    """The GPUs while they fill up."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.slots: list[Slot] = []

    def place(self, workload: Workload, cells: list[Cell]) -> str:
        """Put one copy on a GPU that is in use and has room, else on a new one; the reason where neither is there."""
        if self.fleet.share:
            for slot in self.slots:
                allowed = not workload.gpus or slot.machines.gpu.name in workload.gpus
                if allowed and slot.num_gpus == 1 and not slot.fixed and self._start(slot, workload, smallest=True):
                    return ""
        for cell in cells:
            assert cell.candidate is not None
            tp = cell.candidate.option.tp
            if not self._room(cell.machines, tp):
                continue
            slot = Slot(cell.machines, tp)
            # On a GPU that others may join, a first model takes no more than its load needs.
            if self._start(slot, workload, smallest=self.fleet.share and tp == 1):
                self.slots.append(slot)
                return ""
        return "every GPU that serves it is taken" if cells else "no kind of GPU serves it"

    def start_together(self, shared: Shared, workloads: list[Workload]) -> list[tuple[Workload, str]]:
        """Start workloads on one GPU in the order given; those that do not fit come back with the reason."""
        machines = next(m for m in self.fleet.machines if m.name == shared.machines)
        if not self._room(machines, 1):
            return [(workload, f"every {machines.gpu.name} is taken") for workload in workloads]
        slot = Slot(machines, 1, fixed=True)
        self.slots.append(slot)
        if self._start_all(slot, workloads, [_MAX_TRIES]):
            return []
        failed = []
        for workload in workloads:
            if not self._start(slot, workload, smallest=True):
                before = ", ".join(process.workload.name for process in slot.processes)
                lack = self._lack(slot, workload)
                failed.append((workload, f"{lack} on {machines.gpu.name}" + (f" after {before}" if before else "")))
        return failed

    def fill_up(self) -> None:
        """Relaxation the last process of every GPU the largest safe ratio: nobody comes after it."""
        for slot in self.slots:
            if slot.processes:
                last = slot.processes.pop()
                if not self._start(slot, last.workload, smallest=False):
                    slot.processes.append(last)

    def _start_all(self, slot: Slot, workloads: list[Workload], tries: list[int]) -> bool:
        """Start all on one GPU: the first keep their quality as long as the ones behind them find room at all."""
        if not workloads:
            return True
        for process in self._ways(slot, workloads[0], smallest=True):
            tries[0] -= 1
            slot.processes.append(process)
            if self._start_all(slot, workloads[1:], tries):
                return True
            slot.processes.pop()
            if tries[0] <= 0:
                break
        return False

    def _start(self, slot: Slot, workload: Workload, *, smallest: bool) -> bool:
        process = next(self._ways(slot, workload, smallest=smallest), None)
        if process is not None:
            slot.processes.append(process)
        return process is not None

    def _ways(self, slot: Slot, workload: Workload, *, smallest: bool) -> Iterator[Process]:
        """The ways to start a workload on a GPU, best first."""
        search = self._search(slot, workload)
        for candidate in search.serving(workload.load, smallest_ratio=smallest):
            memory = confirm(search, candidate, workload.load)
            if memory is not None:
                grown = max(memory.worst_bytes, memory.total_bytes) + candidate.image_bytes
                free = slot.free_bytes - slot.growth_bytes
                load = workload.load
                speed = search.speed(candidate.settings, candidate.kv, load.num_users, load.context_tokens)
                rate = speed.user_tokens_per_s.value if speed else None
                yield Process(workload, candidate, memory, free, min(grown, free), rate)

    def _lack(self, slot: Slot, workload: Workload) -> str:
        search = self._search(slot, workload)
        if next(search.serving(workload.load, smallest_ratio=True), None) is not None:
            return "the full estimate does not bear the plan out"
        nearest = search.nearest(workload.load, smallest_ratio=True)
        return nearest.lack if nearest else _refusal(search, workload.load)

    def _search(self, slot: Slot, workload: Workload) -> Search:
        offer = Offer(slot.machines.gpu, max(slot.free_bytes, 1), slot.num_gpus, neighbours_bytes=slot.growth_bytes)
        search = Search(workload.spec, offer, workload.lmdeploy, workload.engine)
        search.options = tuple(option for option in search.options if option.tp == slot.num_gpus)
        return search

    def _room(self, machines: Machines, num_gpus: int) -> bool:
        total = machines.num_gpus
        if total is None:
            return True
        # Models of several GPUs stay within a machine; a machine of 8 holds four models of 2.
        if num_gpus > 1:
            per_machine = machines.gpus_each // num_gpus
            same = sum(1 for s in self.slots if s.machines is machines and s.num_gpus == num_gpus)
            if same >= per_machine * (machines.count or 0):
                return False
        return sum(s.num_gpus for s in self.slots if s.machines is machines) + num_gpus <= total
