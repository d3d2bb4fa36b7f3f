"""`python -m tests.fuzz`: spoiled inputs for every reader and command line, seeded and bounded in time.

Prints a row a reader; exits with 1 where an input ended in a traceback, too late, too large or with raw controls.
`--only` and `--number` play one input again.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import sys
import time

from tests.fuzz.harness import Result, attack, limit_memory, quiet_environment, warm_up
from tests.fuzz.targets import TARGETS


def _work(name: str, worker: int, workers: int, seed: int, seconds: float, most: int) -> Result:
    numbers = itertools.islice(itertools.count(worker, workers), most)
    return attack(TARGETS[name], numbers, seed, time.monotonic() + seconds)


def _start() -> None:
    quiet_environment()
    warm_up()
    limit_memory()


def main() -> int:
    """Attack, print the table, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for all readers together, by the clock")
    parser.add_argument("--inputs", type=int, default=10**6, help="at most, for each reader")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=[*TARGETS], action="append", help="a reader; may be given more than once")
    parser.add_argument("--number", type=int, help="play this one input of --only")
    options = parser.parse_args()
    names = options.only or [*TARGETS]
    if options.number is not None:
        _start()
        result = attack(TARGETS[names[0]], iter([options.number]), options.seed, time.monotonic() + 60)
        print(*(result.failures or [f"exit code {next(iter(result.codes))}"]), sep="\n")
        return 1 if result.failures else 0
    share = options.seconds / len(names)
    most = -(-options.inputs // options.workers)
    total = Result()
    print(f"seed {options.seed}\n{'reader':<14} {'inputs':>8} {'failed':>7} {'slowest':>8}  exit codes", flush=True)
    with multiprocessing.get_context("fork").Pool(options.workers, initializer=_start) as pool:
        for name in names:
            jobs = [(name, n, options.workers, options.seed, share, most) for n in range(options.workers)]
            merged = Result()
            for result in pool.starmap(_work, jobs, chunksize=1):
                for one in (merged, total):
                    one.codes += result.codes
                    one.failures += result.failures
                    one.slowest_s = max(one.slowest_s, result.slowest_s)
            _row(name, merged)
    _row("all", total)
    for failure in total.failures[:50]:
        print(f"\n{failure}")
    return 1 if total.failures else 0


def _row(name: str, result: Result) -> None:
    codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(result.codes.items()))
    print(
        f"{name:<14} {result.num_inputs:>8,} {len(result.failures):>7,} {result.slowest_s:>7.2f}s  {codes}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
