"""What reading the GPU's memory 200 times a second costs the engine: `make bench-gpu`, on a machine with a GPU.

Decodes the same batches with a reading every 5 ms and with one every 10 s, in turn, and compares the best rates: noise
only ever slows a run down. Exits with 1 where the readings cost more than 2%.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from planner.errors import LmplanError
from quantize.measure.plan import measure_plan, plan_here
from quantize.system.installation import lmdeploy_version
from quantize.system.sampler import GPU_INTERVAL_S

MODEL = "qwen2.5-1.5b"
BATCHES = (1, 1, 1, 16, 16, 16)
ROUNDS = 2
RARELY_S = 10.0
MOST_RATIO = 0.02


def rates(interval_s: float, python: str) -> dict[int, float]:
    """The best decode rate of each batch size, tokens/s."""
    wishes = {"lmdeploy": lmdeploy_version(python, os.environ), "cache_max_entry_count": 0.2}
    plan = plan_here(MODEL, wishes, 0, None)
    with tempfile.TemporaryDirectory(prefix="lmplan-bench-") as scratch:
        measurement = measure_plan(
            plan, Path(scratch), python=python, decode_batches=BATCHES, sample_interval_s=interval_s
        )
    if not measurement.complete:
        raise SystemExit(f"the run did not finish: {measurement.error}")
    found: dict[int, float] = {}
    for rate in measurement.speed:
        if rate["phase"] == "decode":
            found[rate["batch"]] = max(found.get(rate["batch"], 0.0), rate["tokens_per_s"])
    return found


def main(python: str = sys.executable) -> int:
    often: dict[int, float] = {}
    rarely: dict[int, float] = {}
    for _ in range(ROUNDS):
        for best, interval_s in ((often, GPU_INTERVAL_S), (rarely, RARELY_S)):
            for batch, rate in rates(interval_s, python).items():
                best[batch] = max(best.get(batch, 0.0), rate)
    cost = {batch: 1 - often[batch] / rarely[batch] for batch in rarely}
    for batch, ratio in cost.items():
        print(
            f"batch {batch}: {rarely[batch]:,.1f} tokens/s hardly read, {often[batch]:,.1f} read every "
            f"{GPU_INTERVAL_S * 1000:g} ms: {ratio:+.2%}"
        )
    worst = max(cost.values())
    print(f"cost {max(worst, 0):.2%} of decode speed, at most {MOST_RATIO:.0%} allowed")
    return 1 if worst > MOST_RATIO else 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:2]))
    except LmplanError as error:
        sys.exit(f"{error.message}\n  {error.hint}")
