"""Where numbers come from: the nearest trace, the nearest measured host, and what is said of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from packaging.version import Version

from planner import estimate
from planner.data import read_toml
from planner.hardware import overhead
from planner.hardware.gpu import Gpu, find_gpu
from planner.hardware.overhead import communicator, find_host
from planner.kinds import EngineName
from planner.lmdeploy import evidence
from planner.lmdeploy.evidence import traced, traces
from planner.lmdeploy.table import Table, TableError
from planner.lmdeploy.words import Subject
from planner.units import MIB

TURBOMIND, PYTORCH = EngineName.TURBOMIND, EngineName.PYTORCH
NEWEST = Version("0.18.0")


@pytest.mark.parametrize("subject", Subject)
def test_every_subject_was_traced_somewhere(subject: Subject) -> None:
    (trace,) = [trace for trace in traces() if subject in trace.subjects]
    found = traced(subject, trace.engine, Version(trace.lmdeploy), trace.compute_capability)
    assert found.kind == "formula"
    assert f"traced on {trace.product.removeprefix('NVIDIA ')}, 0.18.0" in found.detail
    assert set(read_toml("evidence.toml")["subjects"]) == set(Subject.words())


def test_elsewhere_what_depends_on_kernels_is_assumed() -> None:
    assert str(traced(Subject.PACKING, TURBOMIND, NEWEST, 80)) == (
        "assumed (read in the source of 0.16.0, traced on no such GPU)"
    )
    assert str(traced(Subject.PACKED_COPY, PYTORCH, NEWEST, 89)) == "assumed (as on NVIDIA H200)"
    assert str(traced(Subject.POOLS, TURBOMIND, Version("0.16.0"), 80)) == "formula (traced on H200, 0.18.0)"


@pytest.fixture
def fresh_evidence() -> Any:
    caches = (evidence.traced, evidence.traces, evidence._said, evidence._table)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_a_second_trace_is_one_entry(monkeypatch: pytest.MonkeyPatch, fresh_evidence: None) -> None:
    data = copy.deepcopy(read_toml("evidence.toml"))
    entry = {**data["traced"][0], "product": "NVIDIA L4", "compute_capability": 89, "lmdeploy": "0.16.0"}
    data["traced"].append(entry)
    monkeypatch.setattr(evidence, "read_toml", lambda name: data)
    before = estimate("qwen3-8b", "l4", weights="w4a16")
    assert "traced on L4, 0.16.0" in str(traced(Subject.PACKING, TURBOMIND, NEWEST, 89))
    assert "traced on H200, 0.18.0" in str(traced(Subject.PACKING, TURBOMIND, NEWEST, 90))
    data["traced"].append({**entry, "lmdeploy": "0.18.0"})
    evidence.traces.cache_clear()
    evidence.traced.cache_clear()
    assert "traced on L4, 0.18.0" in str(traced(Subject.PACKING, TURBOMIND, NEWEST, 89))
    assert estimate("qwen3-8b", "l4", weights="w4a16").total_bytes == before.total_bytes


def test_a_slip_in_the_traces_is_named(monkeypatch: pytest.MonkeyPatch, fresh_evidence: None) -> None:
    data = copy.deepcopy(read_toml("evidence.toml"))
    data["traced"][0]["subjects"] = ["pool"]
    monkeypatch.setattr(evidence, "_table", lambda: Table(data, evidence.FILE))
    with pytest.raises(TableError, match=r"evidence.toml \[traced\].*subjects is 'pool'; expected one of pools"):
        traces()


def test_an_h100_is_measured_under_turbomind() -> None:
    host = find_host(find_gpu("h100"), TURBOMIND, "0.18.0")
    assert host.cuda_context.size_bytes / MIB == pytest.approx(526.8, abs=0.05)
    assert host.kernel_code.size_bytes == 394 * MIB
    assert str(host.kernel_code.evidence) == "measured (3 runs, NVIDIA H100 80GB HBM3, LMDeploy 0.18.0)"
    assert str(host.late_code.evidence) == "assumed (as on NVIDIA H200; not measured on this GPU)"
    assert host.late_code.low_bytes < host.late_code.size_bytes < host.late_code.high_bytes


@pytest.mark.parametrize(
    ("gpu", "engine", "lmdeploy", "context", "code"),
    [
        ("h200", TURBOMIND, "0.18.0", "measured (22 runs, NVIDIA H200", "measured (22 runs, NVIDIA H200"),
        ("h200", PYTORCH, "0.18.0", "measured (8 runs, NVIDIA H200", "measured (8 runs, NVIDIA H200"),
        ("h200", TURBOMIND, "0.16.0", "measured (22 runs, NVIDIA H200", "assumed (as on NVIDIA H200;"),
        ("h100", TURBOMIND, "0.16.0", "measured (3 runs, NVIDIA H100", "assumed (as on NVIDIA H100 80GB HBM3;"),
        ("h100", PYTORCH, "0.18.0", "measured (3 runs, NVIDIA H100", "assumed (as on NVIDIA H200;"),
        ("h200-mig-1g.18gb", TURBOMIND, "0.18.0", "assumed (public reports", "assumed (as on NVIDIA H200;"),
        ("h100-pcie", TURBOMIND, "0.18.0", "assumed (public reports", "assumed (as on NVIDIA H200;"),
        ("a100-80g", TURBOMIND, "0.18.0", "assumed (public reports", "assumed (as on NVIDIA H200;"),
    ],
)
def test_the_nearest_host(gpu: str, engine: EngineName, lmdeploy: str, context: str, code: str) -> None:
    host = find_host(find_gpu(gpu), engine, lmdeploy)
    assert str(host.cuda_context.evidence).startswith(context)
    assert str(host.kernel_code.evidence).startswith(code)


def test_a_second_gpu_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    data = copy.deepcopy(read_toml("host.toml"))
    entry = {**data["host"][0], "product": find_gpu("a100-80g").product, "compute_capability": 80, "runs": 5}
    data["host"] += [{**entry, "lmdeploy": "0.12.0", "kernel_code_bytes": 100 * MIB}, entry]
    monkeypatch.setattr(overhead, "read_toml", lambda name: data)

    def code(gpu: str, lmdeploy: str = "0.18.0") -> tuple[str, int]:
        term = find_host(find_gpu(gpu), TURBOMIND, lmdeploy).kernel_code
        return term.evidence.kind, term.size_bytes

    measured_bytes = entry["kernel_code_bytes"]
    assert code("a100-80g") == ("measured", measured_bytes)
    assert code("a100-80g", "0.12.0") == ("measured", 100 * MIB)
    assert code("a100-80g", "0.13.0") == ("assumed", 100 * MIB)  # the nearest version, not the first entry
    assert code("a30") == ("assumed", measured_bytes)
    assert "as on NVIDIA A100" in find_host(find_gpu("t4"), TURBOMIND, "0.18.0").kernel_code.evidence.detail


def test_nccl_is_measured_on_its_product_alone() -> None:
    def kind(gpu: Gpu, tp: int) -> str:
        terms = communicator(tp, gpu, TURBOMIND, "0.18.0")
        assert terms is not None
        return terms[0].evidence.kind

    h200 = find_gpu("h200")
    assert kind(h200, 2) == "measured"
    assert kind(h200, 4) == "assumed"
    assert kind(find_gpu("h100"), 2) == "assumed"
    assert kind(h200._replace(slice_of="h200"), 2) == "assumed"
    assert communicator(1, h200, TURBOMIND, "0.18.0") is None
