"""Running inputs one after the other in a process with limits, and saying what each that went wrong was.

An input passes when it ends with a documented exit code other than 1 in at most two seconds and 300 MB, with output
that holds no control character but line ends and colours.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from planner.files import escape
from quantize.run import prepare
from quantize.system.installation import Installation
from tests.fuzz.examples import REPOSITORY
from tests.fuzz.targets import TARGETS, Target

GOOD_CODES = frozenset((0, 2, 3, 4, 5, 6, 7, 8))
MAX_SECONDS = 2.0
MAX_BYTES = 300 * 10**6


class TooSlowError(BaseException):
    """An input took longer than it may; no `except Exception` may swallow it."""


@dataclass(slots=True)
class Result:
    """What a target did with its inputs."""

    codes: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def num_inputs(self) -> int:
        """Inputs that were tried."""
        return sum(self.codes.values()) + len(self.failures)


def limit_memory() -> None:
    """Let this process grow by so much and no more; what needs more gets a MemoryError and counts as a failure."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, resource.RLIM_INFINITY))


def quiet_environment() -> None:
    """No network, a stand-in for LMDeploy that is never started, no calibration of this machine."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        LMPLAN_LMDEPLOY="/nonexistent/lmdeploy",
        LMPLAN_CONFIG_HOME="/nonexistent/config",
        COLUMNS="100",
    )
    os.chdir(REPOSITORY)
    # What a start of LMDeploy would answer takes a second each time.
    words = "--work-dir --calib-dataset --calib-samples --calib-seqlen --batch-size --search-scale --dtype --device"
    options = frozenset((*words.split(), "--trust-remote-code", "--w-bits", "--w-sym", "--w-group-size"))
    installed = Installation(("lmdeploy",), "0.18.0", {}, options)
    prepare.find_installation = lambda environment, command: installed


def attack(target: Target, numbers: Iterator[int], seed: int, deadline: float) -> Result:
    """Run inputs of a target until the numbers or the time end."""
    result = Result()
    for number in numbers:
        if time.monotonic() > deadline:
            break
        _one(target, number, seed, result)
    return result


def _one(target: Target, number: int, seed: int, result: Result) -> None:
    rng = random.Random(f"{seed} {target.name} {number}")
    folder = Path(tempfile.mkdtemp(prefix="lmplan-fuzz-"))
    started = time.process_time()
    code, trouble, printed = -1, "", ""
    try:
        with _captured() as output, _alarm():
            code = target.run(rng, folder)
    except TooSlowError:
        trouble = f"took more than {MAX_SECONDS:g} s"
    except MemoryError:
        trouble = f"took more than {MAX_BYTES / 10**6:.0f} MB"
        gc.collect()
    except BaseException:
        trouble = traceback.format_exc().strip()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.slowest_s = max(result.slowest_s, time.process_time() - started)
    printed = output[0] if output else ""
    if not trouble and code not in GOOD_CODES:
        trouble = f"exit code {code}: {printed[-500:]}"
    if not trouble and escape.terminal(printed) != printed:
        trouble = f"raw control characters: {printed[-500:]!r}"
    if trouble:
        result.failures.append(f"{target.name} #{number} (seed {seed}): {trouble}")
    else:
        result.codes[code] += 1


@contextmanager
def _captured() -> Iterator[list[str]]:
    """Standard output and error as a user would get them, through real descriptors."""
    found: list[str] = []
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for descriptor, number in zip(saved, (1, 2), strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            file.seek(0)
            found.append(file.read().decode("utf-8", "replace"))


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def warm_up() -> None:
    """Import and compute what every input shares, so that no input is charged for it."""
    for target in TARGETS.values():
        _one(target, -1, 0, Result())
