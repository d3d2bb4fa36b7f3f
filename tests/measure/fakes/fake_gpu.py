"""A GPU made of files: FAKE_GPU is a folder in which each process writes how many bytes it holds.

Shared by the fakes of pynvml, torch and lmdeploy beside it. Memory of a process that is gone comes free, as on a card.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ["FAKE_GPU"])
TOTAL_BYTES = 150_754_820_096
RESERVED_BYTES = 644_939_776  # so that CUDA's total is 150,109,880,320, as on an H200
CONTEXT_BYTES = 552_402_944


def hold(size_bytes: int) -> None:
    """Hold so many bytes from now on."""
    part = FOLDER / f"{os.getpid()}.part"
    part.write_text(str(size_bytes))
    part.replace(FOLDER / str(os.getpid()))


def holders() -> dict[int, int]:
    """Process -> bytes, of those that live. Process 0 stands for somebody in another container."""
    found = {}
    for path in FOLDER.iterdir():
        if path.name.isdigit() and (path.name == "0" or alive(int(path.name))):
            found[int(path.name)] = int(path.read_text() or 0)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def used_bytes() -> int:
    return RESERVED_BYTES + sum(holders().values())
