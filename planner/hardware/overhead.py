"""What only a host can tell, measured where it was and assumed elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

from planner.data import read_toml
from planner.hardware import calibration
from planner.hardware.gpu import Gpu
from planner.memory.terms import Evidence, Term
from planner.units import counted, format_bytes


class Host(NamedTuple):
    """Bytes that a process holds on a GPU apart from everything that the engine computes.

    Attributes:
        cuda_context, kernel_code: terms present before the KV cache is sized.
        late_code_bytes: code loaded between the KV cache and the first warm-up request.
        first_request_bytes: code loaded by the first request.
    """

    cuda_context: Term
    kernel_code: Term
    late_code_bytes: int
    first_request_bytes: int


def find_host(gpu: Gpu, engine: str, lmdeploy: str) -> Host:
    """What was calibrated on this host for `gpu`, or measured for its product, or assumed after the nearest one."""
    own = _calibrated(gpu, engine, lmdeploy)
    if own is not None:
        return _measured(own, "calibrated here")
    table = read_toml("host.toml")
    entries: list[dict[str, Any]] = [h for h in table["host"] if h["engine"] == engine] or table["host"]
    for entry in entries:
        if entry["product"] == gpu.product and not gpu.slice_of:
            measured = _measured(entry)
            if lmdeploy == entry["lmdeploy"]:
                return measured
            # The context is the driver's; the code is that of another version.
            return _assumed(entry, table["assumed"])._replace(cuda_context=measured.cuda_context)
    return _assumed(entries[0], table["assumed"])


def turbomind_modules_bytes() -> int:
    """What TurboMind's kernels take in a process of the PyTorch engine that serves 4-bit weights with them."""
    return int(read_toml("host.toml")["modules"]["turbomind_bytes"])


def _calibrated(gpu: Gpu, engine: str, lmdeploy: str) -> dict[str, Any] | None:
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
        entry["late_code_bytes"],
        entry["first_request_bytes"],
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
    return Host(context, code, nearest["late_code_bytes"], nearest["first_request_bytes"])


def communicator(tp: int, gpu: Gpu, engine: str, lmdeploy: str) -> tuple[Term, Term] | None:
    """NCCL's buffers on one GPU, at start and after the first exchange; None without tensor parallelism."""
    if tp == 1:
        return None
    table = read_toml("host.toml")
    assumed = table["assumed"]
    own = [e for e in (_calibrated(gpu, engine, lmdeploy) or {}).get("communicator", []) if e["tp"] == tp]
    if own:
        entry, measured, where = own[0], True, f"{gpu.product}, calibrated here"
    else:
        entry = min(table["communicator"]["nccl"], key=lambda e: (abs(e["tp"] - tp), e["tp"]))
        where = table["host"][0]["product"]
        measured = entry["tp"] == tp and gpu.product == where
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
