"""How many GPUs a model naturally takes where a server has several."""

from __future__ import annotations

from planner.advise.candidates import TP
from planner.engine.base import Deployment
from planner.errors import LmplanError
from planner.hardware.gpu import Gpu
from planner.lmdeploy.settings import Request, decide
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.spec import ModelSpec
from planner.start import Startup


def least_gpus(spec: ModelSpec, gpu: Gpu, lmdeploy: LmdeployVersion, engine: str | None, dtype: str = "auto") -> int:
    """The fewest GPUs on which the weights load as they are, for a GPU that comes on a board of several; else 1.

    Whole and idle GPUs count: who shares one has no others, and more free memory never means more GPUs.
    """
    if not gpu.on_board:
        return 1
    for tp in TP:
        try:
            settings = decide(spec, gpu, lmdeploy, Request(engine=engine, dtype=dtype, tp=tp))
            startup = Startup.of(Deployment(spec, gpu, gpu.memory_total_bytes, settings))
        except LmplanError:
            continue
        if startup.load_bytes() <= gpu.memory_total_bytes:
            return tp
    return 1
