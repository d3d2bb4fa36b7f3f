"""Start LMDeploy with planned settings, and read from outside what it holds."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.errors import EnvironmentProblem
from planner.units import MIB, format_gib
from quantize.measure import probe
from quantize.measure.engine_log import EngineLog
from quantize.measure.measurement import Measurement, Phase, today
from quantize.measure.neighbour import copied, neighbours
from quantize.system.child import Child, TimeUpError, exit_words
from quantize.system.gpu_memory import SAMPLE_INTERVAL_S, Nvml, Sampler
from quantize.system.interrupts import EndedBySignal, noted_signals
from quantize.system.machine import process_tree

_SETTLES_S = 0.05
"""The driver's count follows a free by some milliseconds."""
_COMES_FREE_WITHIN_S = 5.0
_NOTICED_BYTES = 64 * MIB
"""Less than this that others hold, or take while we measure, is left unsaid: no context is as small."""
_TAIL_LINES = 40
_STALLS_AFTER_S = 10.0
"""A warm-up request that found no room in the KV cache for so long never will: it is the only one."""
_FULL_BYTES = 32 * MIB
"""TurboMind's pools ask for pages of 32 MiB: where one is not left, it dies, and of what it does not always say."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `settings` are the engine's own option names; lengths are tokens."""

    folder: Path
    engine: str
    settings: dict[str, Any]
    prefill_tokens: int = 8000
    decode_batches: tuple[int, ...] = (1, 16)
    full_batch: int = 64
    image_pixels: int = 0
    load_only: bool = False
    limit_bytes: int | None = None
    time_limit_s: float = 900.0
    devices: tuple[int, ...] = (0,)
    python: str = sys.executable
    sample_interval_s: float = SAMPLE_INTERVAL_S


class InterruptedMeasurement(EndedBySignal):
    """The user ended the run; `measurement` is what it had shown."""

    def __init__(self, signal_number: int, measurement: Measurement) -> None:
        super().__init__(signal_number)
        self.measurement = measurement


@dataclass(slots=True)
class _Seen:
    """What the run has shown so far."""

    phases: list[Phase] = field(default_factory=list)
    log: EngineLog = field(default_factory=EngineLog)
    tail: list[str] = field(default_factory=list)
    load_peak_bytes: int = 0
    peak_bytes: int = 0
    versions: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    signal_number: int | None = None
    died: bool = False
    stalled: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [phase.name for phase in self.phases]

    @property
    def done(self) -> bool:
        return "done" in self.names

    @property
    def waits_for_room(self) -> bool:
        """Whether a warm-up request found no room in the KV cache."""
        return self.log.cache_full and "loaded" not in self.names


class _Limit:
    """The time limit, and an earlier one once a warm-up request waits."""

    def __init__(self, time_limit_s: float) -> None:
        self.words = f"it had not finished after {time_limit_s:g} s and was ended"
        self._end = time.monotonic() + time_limit_s
        self._waits_since: float | None = None

    def end(self, seen: _Seen) -> float:
        """By `time.monotonic`."""
        if not seen.waits_for_room:
            return self._end
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        return min(self._end, self._waits_since + _STALLS_AFTER_S)


def probe_case(case: Case) -> dict[str, Any]:
    """The JSON object that `probe.py` reads."""
    return {
        "folder": str(case.folder),
        "engine": case.engine,
        "settings": case.settings,
        "prefill_tokens": case.prefill_tokens,
        "decode_batches": list(case.decode_batches),
        "full_batch": case.full_batch,
        "image_pixels": case.image_pixels,
        "load_only": case.load_only,
    }


def measure(
    case: Case,
    model: dict[str, Any],
    checkpoint: dict[str, Any],
    settings: dict[str, Any],
    *,
    note: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Run `case` and return what was seen, also when the engine died or hung.

    Args:
        model, checkpoint, settings, note: go into the measurement as they are.
        tell: is given a line at each phase, and one for everything that stands in the way of a clean reading.

    Raises:
        EnvironmentProblem: no GPU, no driver library, no LMDeploy.
        InterruptedMeasurement: a signal came; what was seen comes with it.
    """
    nvml = Nvml()
    nvml.check(case.devices)
    facts = nvml.facts(case.devices[0])
    seen = _Seen()
    _note(seen, other_users(nvml, case.devices), tell)
    with noted_signals() as caught, _limited(case, nvml, caught) as left:
        with Sampler(nvml, case.devices, case.sample_interval_s) as sampler:
            _watch(case, nvml, sampler, seen, caught, tell)
        seen.peak_bytes = sampler.peak_bytes[case.devices[0]]
        _note(seen, drift(sampler), tell)
    free_bytes = left if left is not None else facts.free_bytes
    names = seen.names
    if "context" not in names and "No module named" in " ".join(seen.tail):
        raise EnvironmentProblem(f"LMDeploy cannot start: {_last_words(seen)}", "pip install 'lmplan[lmdeploy]'")
    measurement = Measurement(
        complete=seen.done,
        outcome=_outcome(seen, free_bytes),
        host={
            "product": facts.product,
            "memory_total_bytes": facts.memory_total_bytes,
            "driver": facts.driver,
            "compute_capability": facts.compute_capability,
            **seen.versions,
        },
        model=model,
        checkpoint=checkpoint,
        settings=settings,
        free_before_bytes=free_bytes,
        phases=seen.phases,
        engine_log=seen.log.to_object(),
        load_peak_bytes=seen.load_peak_bytes or seen.peak_bytes,
        peak_bytes=seen.peak_bytes,
        speed=_speed(seen),
        error="" if seen.done else seen.failure,
        date=today(),
        note="; ".join(part for part in (note, *seen.notes) if part),
    )
    if seen.signal_number is not None:
        raise InterruptedMeasurement(seen.signal_number, measurement)
    return measurement


@contextlib.contextmanager
def _limited(case: Case, nvml: Nvml, caught: Sequence[int]) -> Iterator[int | None]:
    """Imitate the smaller card, where one is asked for; yields what is left free, or None."""
    if case.limit_bytes is None:
        yield None
        return
    each = [_environment(nvml, (device,)) for device in case.devices]
    with neighbours(case.python, each, case.limit_bytes, caught) as left:
        yield left


def _environment(nvml: Nvml, devices: Sequence[int]) -> dict[str, str]:
    """The child sees the devices that we read and no others, in our order."""
    # The child runs in a folder of its own, where relative entries would lead elsewhere.
    path = os.environ.get("PYTHONPATH")
    absolute = {"PYTHONPATH": os.pathsep.join(str(Path(p).absolute()) for p in path.split(os.pathsep))} if path else {}
    return {
        **os.environ,
        **absolute,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": nvml.visible(devices),
        "PYTHONUNBUFFERED": "1",
        "TM_LOG_LEVEL": "INFO",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _note(seen: _Seen, text: str, tell: Callable[[str], None]) -> None:
    if text:
        seen.notes.append(text)
        tell(f"warning: {text}")


def other_users(nvml: Nvml, devices: Sequence[int]) -> str:
    """Who else holds memory on the devices, in words; empty for nobody. Containers hide the others' process ids."""
    found = []
    for device in devices:
        facts = nvml.facts(device)
        held = facts.used_bytes - facts.idle_bytes
        pids = nvml.other_processes(device, {os.getpid()})
        # Without a known idle state the driver's own few hundred MiB look like somebody's.
        if pids or (facts.idle_bytes and held > _NOTICED_BYTES):
            who = f"processes {', '.join(map(str, pids))}" if pids else "others"
            found.append(
                f"{who} hold {format_gib(max(held, 0))} on GPU {device}, and what they take meanwhile is counted"
            )
    return "; ".join(found)


def drift(sampler: Sampler) -> str:
    """What the devices hold more or less than before, once the run is gone, in words; empty for nothing."""
    end = time.monotonic() + _COMES_FREE_WITHIN_S
    while True:
        off = {device: change for device, change in sampler.change().items() if abs(change) > _NOTICED_BYTES}
        if not off or time.monotonic() > end:
            break
        time.sleep(0.1)
    return "; ".join(
        f"GPU {device} holds {format_gib(abs(change))} {'more' if change > 0 else 'less'} than before the run: "
        "another process moved meanwhile, and its share is in these figures"
        for device, change in off.items()
    )


def _watch(
    case: Case, nvml: Nvml, sampler: Sampler, seen: _Seen, caught: Sequence[int], tell: Callable[[str], None]
) -> None:
    """Run the probe to its end; `seen.failure` says why it ended when that was not "done"."""
    with tempfile.TemporaryDirectory(prefix="lmplan-measure-") as folder:
        path = Path(folder) / "case.json"
        path.write_text(json.dumps(probe_case(case)), encoding="utf-8")
        command = [case.python, str(copied("probe.py", Path(folder))), str(path)]
        child = Child(command, Path(folder), _environment(nvml, case.devices))
        why, limit = "", _Limit(case.time_limit_s)
        try:
            for line in child.lines(lambda: limit.end(seen), caught):
                _take(line, child, nvml, sampler, seen, tell)
        except TimeUpError:
            seen.stalled = seen.waits_for_room
            why = "a warm-up request waits for room in the KV cache" if seen.stalled else limit.words
        except EndedBySignal as error:
            why, seen.signal_number = error.message, error.exit_code - 128
        finally:
            code = child.end()
    seen.died = not why and code != 0
    seen.failure = why or seen.log.last_error or _last_words(seen) or f"LMDeploy said nothing ({exit_words(code)})"
    if not why and code < 0:
        seen.failure = f"LMDeploy was {exit_words(code)}: {seen.failure}"


def _take(line: str, child: Child, nvml: Nvml, sampler: Sampler, seen: _Seen, tell: Callable[[str], None]) -> None:
    """Read a line; where it reports a phase, take the memory and let the probe go on."""
    facts = _phase_facts(line)
    if facts is None:
        seen.log.read(line)
        seen.tail = [*seen.tail[1 - _TAIL_LINES :], line.strip()[:500]]
        return
    name = facts.pop("phase")
    if name == "context":
        seen.versions = facts.pop("versions", {})
    time.sleep(_SETTLES_S)
    used = sampler.now()
    peak = sampler.phase_peak()
    pids = set(process_tree(child.pid))
    own = [nvml.process_bytes(device, pids) for device in used]
    if all(size is not None for size in own):
        facts["process_bytes"] = own
    seen.phases.append(Phase(name, list(used.values()), list(peak.values()), facts))
    if name == "loaded":
        seen.load_peak_bytes = sampler.peak_bytes[next(iter(used))]
    tell(f"{name.replace('_', ' ')}: {format_gib(used[next(iter(used))])}")
    child.answer()


def _phase_facts(line: str) -> dict[str, Any] | None:
    """What the probe reports in a line; None for a line of the engine's."""
    _, mark, text = line.partition(probe.MARK)
    if not mark:
        return None
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("phase"), str) else None


def _last_words(seen: _Seen) -> str:
    return next((line for line in reversed(seen.tail) if line), "")


def _outcome(seen: _Seen, free_bytes: int) -> str:
    if "short_request" in seen.names or (seen.done and "loaded" in seen.names):
        return "serves"
    if seen.log.no_room:
        return "no room for the KV cache"
    if seen.stalled:
        return "hangs while warming up"
    full = seen.died and free_bytes - seen.peak_bytes < _FULL_BYTES
    if not seen.log.out_of_memory and not full:
        return "failed"
    if seen.log.kv_budget_bytes is None and seen.log.blocks is None:
        return "dies while loading"
    return "dies while warming up"


def _speed(seen: _Seen) -> list[dict[str, Any]]:
    rates = []
    for phase in seen.phases:
        seconds, tokens = phase.facts.get("seconds", 0), phase.facts.get("tokens", 0)
        # A model whose values are not numbers may end each answer at once: no tokens, no speed.
        if phase.name in ("decode", "long_prefill") and min(seconds, tokens) > 0:
            rates.append(
                {
                    "phase": "decode" if phase.name == "decode" else "prefill",
                    "batch": phase.facts.get("batch", 1),
                    "tokens_per_s": tokens / seconds,
                }
            )
    return rates
