"""A neighbour on the GPU: hold all but so much memory, in plain allocations, until standard input closes.

Standard input closes when the parent dies, however it dies, so the memory always comes free. Runs as
``python hold.py DEVICE FREE_BYTES``; writes ``left`` and the bytes that are still free once it holds the rest.
"""

from __future__ import annotations

import ctypes
import sys

_STEP_BYTES = 16 * 2**20


def _runtime() -> ctypes.CDLL:
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SystemExit("no CUDA runtime library was found")


def _hold_with_torch(device: int, free_bytes: int) -> tuple[object, int]:
    import torch

    torch.cuda.set_device(device)
    torch.cuda.init()
    held = []
    free = torch.cuda.mem_get_info()[0]
    while free - free_bytes >= _STEP_BYTES:
        held.append(torch.empty(min(free - free_bytes, 2**33) // 2**21 * 2**21, dtype=torch.uint8, device="cuda"))
        free = torch.cuda.mem_get_info()[0]
    return held, free


def _hold(device: int, free_bytes: int) -> tuple[object, int]:
    cuda = _runtime()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def check(status: int) -> None:
        if status:
            raise SystemExit(f"the CUDA runtime answered with error {status}")

    check(cuda.cudaSetDevice(device))
    check(cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
    held = []
    while free.value - free_bytes >= _STEP_BYTES:
        pointer = ctypes.c_void_p()
        size = min(free.value - free_bytes, 2**33) // 2**21 * 2**21
        check(cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
        held.append(pointer)
        check(cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
    return held, free.value


if __name__ == "__main__":
    device, free_bytes = int(sys.argv[1]), int(sys.argv[2])
    try:
        held, left = _hold_with_torch(device, free_bytes)
    except ImportError:
        held, left = _hold(device, free_bytes)
    sys.stdout.write(f"left {left}\n")
    sys.stdout.flush()
    sys.stdin.read()
