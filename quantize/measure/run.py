"""Start LMDeploy with planned settings, and read from outside what it holds."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.clock import today
from planner.errors import EnvironmentProblem
from planner.units import format_gib
from quantize.measure.measurement import Measurement, Reading
from quantize.measure.neighbour import copied, neighbours
from quantize.measure.others import drift, other_users
from quantize.measure.seen import Seen, TimeLimit, phase_facts
from quantize.system.child import Child, TimeUpError, exit_words
from quantize.system.interrupts import EndedBySignal, noted_signals
from quantize.system.machine import process_tree
from quantize.system.nvml import Nvml
from quantize.system.sampler import GPU_INTERVAL_S, GpuSampler

_SETTLES_S = 0.05
"""The driver's count follows a free by some milliseconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `settings` are the engine's own option names; lengths are tokens.

    `trust_remote_code` lets Python files that come with the model run.
    """

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
    sample_interval_s: float = GPU_INTERVAL_S
    trust_remote_code: bool = False


class InterruptedMeasurement(EndedBySignal):
    """The user ended the run; `measurement` is what it had shown."""

    def __init__(self, signal_number: int, measurement: Measurement) -> None:
        super().__init__(signal_number)
        self.measurement = measurement


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
        "trust_remote_code": case.trust_remote_code,
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
    date = today()  # asked before the run, which takes minutes
    nvml = Nvml()
    nvml.check(case.devices)
    facts = nvml.facts(case.devices[0])
    seen = Seen()
    _note(seen, other_users(nvml, case.devices), tell)
    with noted_signals() as caught, _limited(case, nvml, caught) as left:
        with GpuSampler(nvml, case.devices, case.sample_interval_s) as sampler:
            _watch(case, nvml, sampler, seen, caught, tell)
        seen.peak_bytes = sampler.peak_bytes[case.devices[0]]
        _note(seen, drift(sampler), tell)
    free_bytes = left if left is not None else facts.free_bytes
    names = seen.names
    if "context" not in names and "No module named" in " ".join(seen.tail):
        raise EnvironmentProblem(f"LMDeploy cannot start: {seen.last_words}", "pip install 'lmplan[lmdeploy]'")
    measurement = Measurement(
        complete=seen.done,
        outcome=seen.outcome(free_bytes),
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
        speed=seen.speed(),
        error="" if seen.done else seen.failure,
        date=date,
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
    return {
        **os.environ,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": nvml.visible(devices),
        "PYTHONUNBUFFERED": "1",
        "TM_LOG_LEVEL": "INFO",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _note(seen: Seen, text: str, tell: Callable[[str], None]) -> None:
    if text:
        seen.notes.append(text)
        tell(f"warning: {text}")


def _watch(
    case: Case, nvml: Nvml, sampler: GpuSampler, seen: Seen, caught: Sequence[int], tell: Callable[[str], None]
) -> None:
    """Run the probe to its end; `seen.failure` says why it ended when that was not "done"."""
    with tempfile.TemporaryDirectory(prefix="lmplan-measure-") as folder:
        path = Path(folder) / "case.json"
        path.write_text(json.dumps(probe_case(case)), encoding="utf-8")
        command = [case.python, str(copied("probe.py", Path(folder))), str(path)]
        child = Child(command, Path(folder), _environment(nvml, case.devices), answers=True)
        why, limit = "", TimeLimit(case.time_limit_s)
        try:
            for line in child.lines(lambda: limit.end(seen), caught):
                _take(line, child, nvml, sampler, seen, tell)
        except TimeUpError:
            seen.stalled = seen.waits_for_room
            why = "a warm-up request waits for room in the KV cache" if seen.stalled else limit.words
        except EndedBySignal as error:
            why, seen.signal_number = error.message, error.signal_number
        finally:
            code = child.end()
    seen.died = not why and code != 0
    seen.failure = why or seen.log.last_error or seen.last_words or f"LMDeploy said nothing ({exit_words(code)})"
    if not why and code < 0:
        seen.failure = f"LMDeploy was {exit_words(code)}: {seen.failure}"


def _take(line: str, child: Child, nvml: Nvml, sampler: GpuSampler, seen: Seen, tell: Callable[[str], None]) -> None:
    """Read a line; where it reports a phase, take the memory and let the probe go on."""
    facts = phase_facts(line)
    if facts is None:
        seen.hear(line)
        return
    name = facts.pop("phase")
    if name == "context":
        versions = facts.pop("versions", None)
        seen.versions = {name: str(text) for name, text in versions.items()} if isinstance(versions, dict) else {}
    time.sleep(_SETTLES_S)
    used = sampler.now()
    peak = sampler.phase_peak()
    pids = set(process_tree(child.pid))
    own = [nvml.process_bytes(device, pids) for device in used]
    if all(size is not None for size in own):
        facts["process_bytes"] = own
    seen.phases.append(Reading(name, list(used.values()), list(peak.values()), facts))
    if name == "loaded":
        seen.load_peak_bytes = sampler.peak_bytes[next(iter(used))]
    tell(f"{name.replace('_', ' ')}: {format_gib(used[next(iter(used))])}")
    child.answer()
