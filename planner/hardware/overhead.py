"""What only a host can tell, measured where it was and assumed elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

from packaging.version import Version

from planner.data import read_toml
from planner.hardware import calibration
from planner.hardware.gpu import Gpu
from planner.kinds import EngineName
from planner.memory.terms import Evidence, Term
from planner.releases import release_distance
from planner.units import counted, format_bytes


class Host(NamedTuple):
    """Bytes that a process holds on a GPU apart from everything that the engine computes.

    Attributes:
        cuda_context, kernel_code: terms present before the KV cache is sized.
        late_code: code loaded between the KV cache and the first warm-up request.
        first_request_bytes: code loaded by the first request.
    """

    cuda_context: Term
    kernel_code: Term
    late_code: Term
    first_request_bytes: int


def find_host(gpu: Gpu, engine: EngineName, lmdeploy: str) -> Host:
    """What was calibrated on this host for `gpu`, or measured for its product, or assumed after the nearest one.

    The nearest is of the same product, else of the nearest compute capability, then of the nearest version.
    """
    own = _calibrated(gpu, engine, lmdeploy)
    if own is not None:
        return _measured(own, "calibrated here")
    table = read_toml("host.toml")
    entries: list[dict[str, Any]] = table["host"]
    nearest = _nearest([entry for entry in entries if entry["engine"] == engine] or entries, gpu, lmdeploy)
    if _is_product(nearest, gpu) and nearest["lmdeploy"] == lmdeploy:
        return _measured(nearest)
    host = _assumed(nearest, table["assumed"])
    # The context is the driver's, whichever the engine and the version; the code is theirs.
    here = [entry for entry in entries if _is_product(entry, gpu)]
    return host._replace(cuda_context=_measured(_nearest(here, gpu, lmdeploy)).cuda_context) if here else host


def _nearest(entries: list[dict[str, Any]], gpu: Gpu, lmdeploy: str) -> dict[str, Any]:
    def distance(entry: dict[str, Any]) -> tuple[bool, int, tuple[int, ...]]:
        return (
            not _is_product(entry, gpu),
            abs(entry["compute_capability"] - gpu.compute_capability),
            release_distance(Version(entry["lmdeploy"]), Version(lmdeploy)),
        )

    return min(entries, key=distance)


def _is_product(entry: dict[str, Any], gpu: Gpu) -> bool:
    """Whether an entry was measured on such a card; a slice of one is another thing."""
    return not gpu.slice_of and bool(entry["product"] == gpu.product)


def turbomind_modules_bytes() -> int:
    """What TurboMind's kernels take in a process of the PyTorch engine that serves 4-bit weights with them."""
    return int(read_toml("host.toml")["modules"]["turbomind_bytes"])


def torch_cublas_handle_bytes() -> int:
    """What torch's cuBLAS handle takes where folding opens one in a process of TurboMind."""
    return int(read_toml("host.toml")["modules"]["torch_cublas_handle_bytes"])


def latent_first_request_bytes() -> int:
    """What the first request of a model with latent attention takes under TurboMind besides the usual."""
    return int(read_toml("host.toml")["modules"]["latent_first_request_bytes"])


def _calibrated(gpu: Gpu, engine: EngineName, lmdeploy: str) -> dict[str, Any] | None:
    if not gpu.product or gpu.slice_of:
        return None
    return calibration.find(gpu.product, engine, lmdeploy)


def _measured(entry: dict[str, Any], how: str = "") -> Host:
    where = f"{counted(entry['runs'], 'run')}, {entry['product']}, LMDeploy {entry['lmdeploy']}"
    evidence = Evidence("measured", f"{how}, {where}" if how else where)

    def term(name: str, size_bytes: int, what: str, spread_bytes: int = 0) -> Term:
        low, high = size_bytes - spread_bytes, size_bytes + spread_bytes
        return Term(name, size_bytes, low, high, evidence, format_bytes(size_bytes), what)

    return Host(
        term(
            "cuda_context",
            entry["cuda_context_bytes"],
            "driver state of the process",
            entry.get("cuda_context_spread_bytes", 0),
        ),
        term(
            "kernel_code",
            entry["kernel_code_bytes"],
            "kernels of the engine and of torch",
            entry["kernel_code_spread_bytes"],
        ),
        _late_code(entry, evidence),
        entry["first_request_bytes"],
    )


def _late_code(entry: dict[str, Any], evidence: Evidence) -> Term:
    size_bytes = entry["late_code_bytes"]
    if "late_code_as_on" in entry:
        evidence = Evidence("assumed", f"as on {entry['late_code_as_on']}; not measured on this GPU")
    return Term(
        "late_code",
        size_bytes,
        entry.get("late_code_low_bytes", size_bytes),
        entry.get("late_code_high_bytes", size_bytes),
        evidence,
        format_bytes(size_bytes),
        "kernels loaded while warming up",
    )


def _assumed(nearest: dict[str, Any], assumed: dict[str, Any]) -> Host:
    context = Term(
        "cuda_context",
        assumed["cuda_context_bytes"],
        assumed["cuda_context_low_bytes"],
        assumed["cuda_context_high_bytes"],
        Evidence("assumed", "public reports; not measured on this GPU"),
        format_bytes(assumed["cuda_context_bytes"]),
        "driver state of the process",
    )
    size_bytes = nearest["kernel_code_bytes"]
    code = Term(
        "kernel_code",
        size_bytes,
        int(size_bytes * assumed["kernel_code_low_ratio"]),
        int(size_bytes * assumed["kernel_code_high_ratio"]),
        Evidence("assumed", f"as on {nearest['product']}; not measured with this GPU and version"),
        format_bytes(size_bytes),
        "kernels of the engine and of torch",
    )
    return Host(context, code, _late_code(nearest, code.evidence), nearest["first_request_bytes"])


def communicator(tp: int, gpu: Gpu, engine: EngineName, lmdeploy: str) -> tuple[Term, Term] | None:
    """NCCL's buffers on one GPU, at start and after the first exchange; None without tensor parallelism."""
    if tp == 1:
        return None
    table = read_toml("host.toml")
    assumed = table["assumed"]
    own = [e for e in (_calibrated(gpu, engine, lmdeploy) or {}).get("communicator", []) if e["tp"] == tp]
    if own:
        entry, measured, where = own[0], True, f"{gpu.product}, calibrated here"
    else:
        nccl: list[dict[str, Any]] = table["communicator"]["nccl"]
        entry = min(nccl, key=lambda e: (not _is_product(e, gpu), abs(e["tp"] - tp), e["tp"]))
        where = entry["product"]
        measured = entry["tp"] == tp and _is_product(entry, gpu)
    low, high = (1.0, 1.0) if measured else (assumed["communicator_low_ratio"], assumed["communicator_high_ratio"])
    runs = counted(entry["runs"], "run")
    evidence = Evidence("measured" if measured else "assumed", f"{runs} with tp {entry['tp']} on {where}")

    def term(name: str, size_bytes: int, what: str) -> Term:
        text = format_bytes(size_bytes)
        return Term(name, size_bytes, int(size_bytes * low), int(size_bytes * high), evidence, text, what)

    return (
        term("communicator", entry["size_bytes"], "NCCL's buffers"),
        term("late_communicator", entry["late_bytes"], "NCCL's buffers after the first exchange"),
    )
