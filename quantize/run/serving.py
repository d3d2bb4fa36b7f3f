"""What serving a quantized checkpoint holds on this machine's GPU, beside the estimate, at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import LmplanError
from planner.files.escape import shown
from planner.hardware.gpu import find_gpu
from planner.report import jsonform
from planner.units import format_gib
from quantize.measure import compare_report
from quantize.measure.compare import compare
from quantize.measure.measurement import write
from quantize.measure.plan import check_version, measure_plan, plan_here
from quantize.recipe.model import Target
from quantize.run.estimate import QUANT_POLICY
from quantize.system.installation import find_interpreter, lmdeploy_version
from quantize.system.interrupts import EndedBySignal
from quantize.system.local_gpu import local_gpu

MEASUREMENT = "lmplan-measurement.json"


@dataclass(frozen=True, slots=True)
class Serving:
    """A comparison, as it is printed."""

    text: str
    passed: bool


def measure_result(
    output: Path,
    deployment: Target,
    environment: Mapping[str, str],
    tell: Callable[[str], None],
    *,
    trust_remote_code: bool = False,
) -> Serving | LmplanError:
    """Serve `output` as the recipe plans, on the first GPU of this machine; a smaller card is imitated.

    The measurement is kept in the output folder. `trust_remote_code` is the recipe's.

    Returns:
        The comparison, or why there is none: no GPU, fewer GPUs than planned, no engine, another version.

    Raises:
        InterruptedMeasurement: a signal came.
    """
    try:
        here, facts = local_gpu()
        wanted = find_gpu(deployment.gpu, deployment.sm)
        limit = wanted.memory_total_bytes if wanted.memory_total_bytes < facts.free_bytes else None
        python = find_interpreter(environment)
        installed = lmdeploy_version(python, environment)
        wishes = {
            "lmdeploy": deployment.lmdeploy or installed,
            "engine": deployment.engine,
            "quant_policy": QUANT_POLICY[deployment.kv_bits],
            "cache_max_entry_count": deployment.ratio,
            "tp": deployment.num_gpus,
        }
        plan = plan_here(str(output), wishes, 0, limit)
        check_version(plan, installed)
        tell(f"measuring: LMDeploy {installed} serves {shown(output.name)} on {here.name}")
        measurement = measure_plan(
            plan, None, limit_bytes=limit, python=python, tell=tell, trust_remote_code=trust_remote_code
        )
        write(measurement, output / MEASUREMENT, force=True)
        comparison = compare(jsonform.to_object(plan), measurement)
    except EndedBySignal:
        raise
    except LmplanError as error:
        return error
    free = f" with {format_gib(measurement.free_before_bytes)} free" if limit is not None else ""
    head = f"Measured on {facts.product}{free}:"
    unfinished = "" if measurement.complete else f"The run did not finish: {measurement.error}\n"
    return Serving(f"{head}\n{unfinished}{compare_report.table(comparison)}", comparison.passed)
