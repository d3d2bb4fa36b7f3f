"""What `lmplan estimate` costs from a cold shell: `make bench`.

It prints the wall time and the peak memory of a whole process against those of an interpreter that imports click and
pydantic, which no command line of this kind can do without. The runs alternate, so that both see the same machine.
Targets: at most 2.5 times the time, at most 60 MiB.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

RUNS = 15
TARGET_RATIO = 2.5
TARGET_MIB = 60.0
BIN = Path(sys.executable).parent
ESTIMATE = [str(BIN / "lmplan"), "estimate", "--model", "internlm2_5-7b", "--gpu", "a100-24g"]
BASELINE = [sys.executable, "-c", "import click; from pydantic import BaseModel"]


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one run, its output thrown away."""
    start = time.perf_counter()
    with Path(os.devnull).open("wb") as nowhere:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)])
        _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    measure(ESTIMATE)  # byte code is compiled and files are read once
    measure(BASELINE)
    results: dict[str, list[tuple[float, float]]] = {"estimate": [], "baseline": []}
    for _ in range(RUNS):
        results["estimate"].append(measure(ESTIMATE))
        results["baseline"].append(measure(BASELINE))
    seconds = {name: statistics.median(run[0] for run in runs) for name, runs in results.items()}
    mib = {name: statistics.median(run[1] for run in runs) for name, runs in results.items()}
    ratio = seconds["estimate"] / seconds["baseline"]
    print(f"medians of {RUNS} alternating runs, Python {sys.version.split()[0]}")
    print(f"lmplan estimate         {seconds['estimate']:.3f} s  {mib['estimate']:5.1f} MiB")
    print(f"import click, pydantic  {seconds['baseline']:.3f} s  {mib['baseline']:5.1f} MiB")
    print(f"ratio {ratio:.2f} (at most {TARGET_RATIO}), memory {mib['estimate']:.1f} MiB (at most {TARGET_MIB:.0f})")


if __name__ == "__main__":
    main()
