"""Stands in for torch: a context, and memory that can be held."""

from __future__ import annotations

from types import SimpleNamespace

import fake_gpu

__version__ = "2.11.0+cu130"
version = SimpleNamespace(cuda="13.0")
uint8 = "uint8"
_held = [0]


def _grow(size_bytes):
    _held[0] += size_bytes
    fake_gpu.hold(fake_gpu.CONTEXT_BYTES + _held[0])


def empty(size_bytes, dtype, device):
    _grow(size_bytes)
    return object()


cuda = SimpleNamespace(
    init=lambda: _grow(0),
    set_device=lambda device: None,
    mem_get_info=lambda: (
        fake_gpu.TOTAL_BYTES - fake_gpu.used_bytes(),
        fake_gpu.TOTAL_BYTES - fake_gpu.RESERVED_BYTES,
    ),
    synchronize=lambda: None,
    max_memory_reserved=lambda: 1000,
    memory_reserved=lambda: 0,
)
