"""What was calibrated on this host stands in for its card, engine, version and number of GPUs, and for no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.hardware import calibration
from planner.hardware.gpu import Gpu, catalog, find_gpu
from planner.hardware.overhead import communicator, find_host
from planner.kinds import EngineName

NEWEST = "0.18.0"
TURBOMIND, PYTORCH = EngineName.TURBOMIND, EngineName.PYTORCH
H200, A100 = find_gpu("h200"), find_gpu("a100-80g")
SLICE = next(gpu for gpu in catalog() if gpu.slice_of == "h200")


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An H200 that was calibrated on this host with tp 2."""
    monkeypatch.setenv("LMPLAN_CONFIG_HOME", str(tmp_path))
    entry = {
        "product": H200.product,
        "driver": "580",
        "lmdeploy": NEWEST,
        "engine": "turbomind",
        "compute_capability": 90,
        "cuda_context_bytes": 500_000_001,
        "kernel_code_bytes": 400_000_002,
        "kernel_code_spread_bytes": 1_000_003,
        "late_code_bytes": 2_000_004,
        "first_request_bytes": 9_000_005,
        "runs": 3,
        "communicator": [{"tp": 2, "size_bytes": 600_000_006, "late_bytes": 100_000_007, "runs": 1}],
    }
    calibration.store(entry)
    return entry


def test_what_was_calibrated_here_comes_first(calibrated: dict[str, Any]) -> None:
    host = find_host(H200, TURBOMIND, NEWEST)
    assert host.cuda_context.size_bytes == calibrated["cuda_context_bytes"]
    assert host.kernel_code.size_bytes == calibrated["kernel_code_bytes"]
    assert host.late_code.size_bytes == calibrated["late_code_bytes"]
    assert host.first_request_bytes == calibrated["first_request_bytes"]
    assert "calibrated here" in str(host.kernel_code.evidence)


@pytest.mark.parametrize(
    ("gpu", "engine", "lmdeploy"),
    [
        (A100, TURBOMIND, NEWEST),
        (SLICE, TURBOMIND, NEWEST),
        (H200, PYTORCH, NEWEST),
        (H200, TURBOMIND, "0.17.0"),
    ],
    ids=["another card", "a slice", "another engine", "another version"],
)
def test_a_calibration_is_of_one_card_engine_and_version(
    calibrated: dict[str, Any], gpu: Gpu, engine: EngineName, lmdeploy: str
) -> None:
    assert find_host(gpu, engine, lmdeploy).kernel_code.size_bytes != calibrated["kernel_code_bytes"]
    assert communicator(2, gpu, engine, lmdeploy) != communicator(2, H200, TURBOMIND, NEWEST)


def test_what_nccl_was_calibrated_with_stands_in_for_no_other_number_of_gpus(calibrated: dict[str, Any]) -> None:
    two, four = (communicator(tp, H200, TURBOMIND, NEWEST) for tp in (2, 4))
    assert two is not None and four is not None
    assert [term.size_bytes for term in two] == [600_000_006, 100_000_007]
    assert [term.evidence.kind for term in (*two, *four)] == ["measured", "measured", "assumed", "assumed"]
    assert four[0].size_bytes != two[0].size_bytes
