"""What `lmplan estimate` and `lmplan recommend` cost from a cold shell: `make bench`.

It prints the CPU time (user and system) and the peak memory of whole processes, beside those of an interpreter that
imports click and tabulate, which a command line with tables cannot do without. The runs alternate, so that all see the
same machine; CPU seconds are those of an idle core only where nothing else runs, so compare the rows of one run.
Targets for `estimate`: 0.080 s and 60 MiB.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

RUNS = 21
TARGET_CPU_S = 0.080
TARGET_MIB = 60.0
LMPLAN = (sys.executable, "-c", "from lmplan import main; main()")
BASELINE = "import click, tabulate"
ESTIMATE = "lmplan estimate"
COMMANDS: dict[str, tuple[str, ...]] = {
    BASELINE: (sys.executable, "-c", BASELINE),
    ESTIMATE: (*LMPLAN, "estimate", "--model", "internlm2_5-7b", "--gpu", "a100-24g"),
    "lmplan recommend (MoE, 3 GPUs)": (
        *(*LMPLAN, "recommend", "--model", "qwen3-30b-a3b"),
        *("--gpu", "a100-80g", "--gpu", "h100", "--gpu", "l40s"),
    ),
}
# This checkout, with the byte code kept between runs as Python does unless told otherwise.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["PYTHONPATH"] = str(Path(__file__).parents[1])


def measure(command: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds and peak resident MiB of one run, its output thrown away."""
    with Path(os.devnull).open("wb") as nowhere:
        output = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        pid = os.posix_spawn(command[0], command, ENVIRONMENT, file_actions=output)
        _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    for command in COMMANDS.values():
        measure(command)  # byte code is compiled and files are read once
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            runs[name].append(measure(command))
    print(f"medians of {RUNS} alternating runs, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}")
    base_cpu_s = statistics.median(cpu_s for cpu_s, _ in runs[BASELINE])
    for name, each in runs.items():
        cpu_s, mib = (statistics.median(column) for column in zip(*each, strict=True))
        target = f"  (at most {TARGET_CPU_S:.3f} s, {TARGET_MIB:.0f} MiB)" if name == ESTIMATE else ""
        print(f"{name:31} {cpu_s:.3f} s CPU  {cpu_s / base_cpu_s:4.1f} times the first  {mib:5.1f} MiB{target}")


if __name__ == "__main__":
    main()
