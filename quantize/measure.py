"""Start LMDeploy with planned settings, and read from outside what it holds."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from planner.errors import ChildFailedError, EnvironmentProblem
from quantize import probe
from quantize.engine_log import EngineLog
from quantize.gpu_memory import GpuFacts, Nvml, Sampler
from quantize.measurement import Measurement, Phase

_HOLD_STARTS_WITHIN_S = 120.0
_ENDS_WITHIN_S = 10.0


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


@dataclass(slots=True)
class _Seen:
    """What the run has shown so far."""

    phases: list[Phase] = field(default_factory=list)
    log: EngineLog = field(default_factory=EngineLog)
    tail: list[str] = field(default_factory=list)
    load_peak_bytes: int = 0
    versions: dict[str, Any] = field(default_factory=dict)


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
        model, checkpoint, settings: go into the measurement as they are.
        tell: is given a line at each phase.

    Raises:
        EnvironmentProblem: no GPU, no driver library, no LMDeploy.
    """
    nvml = Nvml()
    devices = tuple(d for d in case.devices if d < len(nvml))
    if len(devices) < len(case.devices):
        raise EnvironmentProblem(f"{len(case.devices)} GPUs are needed and there are {len(nvml)}")
    facts = nvml.facts(devices[0])
    with _neighbours(case, devices) as free_before:
        with Sampler(nvml, devices) as sampler:
            seen, failure = _watch(case, sampler, tell)
        peak = sampler.peak_bytes[devices[0]]
    return _result(seen, failure, facts, model, checkpoint, settings, free_before or facts.free_bytes, peak, note)


@contextlib.contextmanager
def _neighbours(case: Case, devices: tuple[int, ...]) -> Iterator[int | None]:
    """Hold all but the limit on each device; yields the bytes that are left free, or None without a limit."""
    if case.limit_bytes is None:
        yield None
        return
    left: int | None = None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lmplan-hold-")))
        program = _copy("hold.py", folder)
        for device in devices:
            holder = subprocess.Popen(
                [case.python, str(program), str(device), str(case.limit_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(),
            )
            stack.callback(_end, holder)
            assert holder.stdout is not None
            timer = threading.Timer(_HOLD_STARTS_WITHIN_S, holder.kill)
            timer.start()
            line = holder.stdout.readline()
            timer.cancel()
            if not line.strip().isdigit():
                raise EnvironmentProblem(
                    f"the rest of GPU {device} could not be held: {line.strip() or 'no answer'}",
                    "Is torch or a CUDA runtime installed beside LMDeploy?",
                )
            left = int(line) if left is None else min(left, int(line))
        yield left


def _copy(program: str, folder: Path) -> Path:
    """A program of this package alone in `folder`: Python puts a script's own folder first on its path."""
    return Path(shutil.copy(Path(__file__).with_name(program), folder))


def _end(process: subprocess.Popen[str]) -> None:
    """Close its standard input, wait, and kill its whole group where that is not enough."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TM_LOG_LEVEL": "INFO", "TOKENIZERS_PARALLELISM": "false"}


def _watch(case: Case, sampler: Sampler, tell: Callable[[str], None]) -> tuple[_Seen, str]:
    """Run the probe to its end; what was seen, and why it ended when that was not "done"."""
    seen = _Seen()
    with tempfile.TemporaryDirectory(prefix="lmplan-measure-") as folder:
        path = Path(folder) / "case.json"
        path.write_text(json.dumps(probe_case(case)), encoding="utf-8")
        child = subprocess.Popen(
            [case.python, str(_copy("probe.py", Path(folder))), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=folder,
            env=_environment(),
            start_new_session=True,
        )
        assert child.stdin is not None and child.stdout is not None
        timer = threading.Timer(case.time_limit_s, _kill_group, (child.pid,))
        timer.start()
        try:
            follow(child.stdout, child.stdin, sampler, seen, tell)
            code = child.wait()
        finally:
            expired = not timer.is_alive()
            timer.cancel()
            _kill_group(child.pid)
            child.wait()
    if any(phase.name == "done" for phase in seen.phases):
        return seen, ""
    if expired:
        return seen, f"nothing finished within {case.time_limit_s:g} s"
    return seen, seen.log.last_error or _last_words(seen) or f"LMDeploy ended with exit code {code} and said nothing"


def follow(lines: IO[str], answers: IO[str], sampler: Sampler, seen: _Seen, tell: Callable[[str], None]) -> None:
    """Read the probe's output to its end; at each phase take the memory and let it go on."""
    for line in lines:
        at = line.find(probe.MARK)
        if at < 0:
            seen.log.read(line)
            seen.tail = [*seen.tail[-40:], line.rstrip()[:500]]
            continue
        facts = json.loads(line[at + len(probe.MARK) :])
        name = facts.pop("phase")
        if name == "context":
            seen.versions = {key: facts.get(key) for key in ("torch",)}
        time.sleep(0.05)  # the driver's count follows a free by some milliseconds
        used = sampler.now()
        peak = sampler.phase_peak()
        seen.phases.append(Phase(name, list(used.values()), list(peak.values()), facts))
        if name == "loaded":
            seen.load_peak_bytes = max(sampler.peak_bytes.values())
        tell(f"{name.replace('_', ' ')}: {used[next(iter(used))] / 2**30:.2f} GiB")
        with contextlib.suppress(OSError):
            answers.write("\n")
            answers.flush()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _last_words(seen: _Seen) -> str:
    return next((line for line in reversed(seen.tail) if line.strip()), "")


def _result(
    seen: _Seen,
    failure: str,
    facts: GpuFacts,
    model: dict[str, Any],
    checkpoint: dict[str, Any],
    settings: dict[str, Any],
    free_before: int,
    peak: int,
    note: str,
) -> Measurement:
    names = [phase.name for phase in seen.phases]
    if "context" not in names and "No module named" in " ".join(seen.tail):
        raise EnvironmentProblem(f"LMDeploy cannot start: {_last_words(seen)}", "pip install 'lmplan[lmdeploy]'")
    if not names and failure:
        raise ChildFailedError(f"LMDeploy did not reach a GPU context: {failure}")
    return Measurement(
        complete="done" in names,
        outcome=_outcome(seen, names),
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
        free_before_bytes=free_before,
        phases=seen.phases,
        engine_log={
            name: value
            for name in ("free_bytes", "kv_budget_bytes", "block_bytes", "slab_bytes", "blocks_per_slab", "blocks")
            if (value := getattr(seen.log, name)) is not None
        },
        load_peak_bytes=seen.load_peak_bytes or peak,
        peak_bytes=peak,
        speed=_speed(seen),
        error="" if "done" in names else failure,
        date=datetime.date.today().isoformat(),
        note=note,
    )


def _outcome(seen: _Seen, names: list[str]) -> str:
    if "short_request" in names or ("done" in names and "loaded" in names):
        return "serves"
    if not seen.log.out_of_memory:
        return "failed"
    if seen.log.kv_budget_bytes is None and seen.log.blocks is None:
        return "dies while loading"
    return "dies while warming up"


def _speed(seen: _Seen) -> list[dict[str, Any]]:
    rates = []
    for phase in seen.phases:
        if phase.name in ("decode", "long_prefill") and phase.facts.get("seconds", 0) > 0:
            rates.append(
                {
                    "phase": "decode" if phase.name == "decode" else "prefill",
                    "batch": phase.facts.get("batch", 1),
                    "tokens_per_s": phase.facts["tokens"] / phase.facts["seconds"],
                }
            )
    return rates
