"""Which GPU a child would use, and who is asked: NVML first, nvidia-smi where its library is not there."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner.errors import EnvironmentProblem
from planner.units import MIB
from quantize.system.nvml import GpuState, NvidiaSmi, Nvml, first_gpu
from quantize.system.sampler import GpuSampler


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without nvidia-ml-py whose `nvidia-smi` prints a file, and notes what it was asked."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/asked\ncat {tmp_path}/answer\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "answer").write_text("NVIDIA A10, 23028, 300\n")
    return tmp_path


def test_nvidia_smi_stands_in(smi):
    gpus = first_gpu({})
    assert isinstance(gpus, NvidiaSmi)
    assert gpus.state(0) == GpuState("NVIDIA A10", 23028 * MIB, 300 * MIB)
    assert gpus.state(0).free_bytes == 22728 * MIB
    first_gpu({"CUDA_VISIBLE_DEVICES": " GPU-abc , 1"})
    assert (smi / "asked").read_text().split() == ["0", "0", "0", "GPU-abc"]
    with pytest.raises(EnvironmentProblem, match="nvidia-ml-py is not installed"):
        Nvml()


@pytest.mark.parametrize("answer", ["", "No devices were found", "NVIDIA A10, many, 3", "a, 1, 2, 3"])
def test_nonsense_is_no_gpu(smi, answer):
    (smi / "answer").write_text(answer)
    assert first_gpu({}) is None


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_a_child_that_sees_no_gpu_has_none(smi, visible):
    assert first_gpu({"CUDA_VISIBLE_DEVICES": visible}) is None
    assert not (smi / "asked").exists()


def test_a_reading_that_fails_is_left_out():
    """The driver may fail to answer in between; the peak is of what it did answer."""
    sizes = [100, 150, None, 400, 300]
    over = threading.Event()

    def used_bytes(index: int) -> int:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        if len(sizes) == 1:
            over.set()
        if size is None:
            raise EnvironmentProblem("lost for a moment")
        return size

    with GpuSampler(SimpleNamespace(used_bytes=used_bytes), (0,), 0.001) as sampler:
        assert over.wait(10)
    assert sampler.base_bytes == {0: 100} and sampler.peak_bytes == {0: 300}


def test_peaks_are_above_the_start():
    sizes = iter([100, 150, None, 400, 300])

    def used_bytes(index: int) -> int:
        size = next(sizes)
        if size is None:
            raise EnvironmentProblem("lost for a moment")
        return size

    sampler = GpuSampler(SimpleNamespace(used_bytes=used_bytes), (0,))
    assert sampler.now() == {0: 50} and sampler.phase_peak() == {0: 50}
    with pytest.raises(EnvironmentProblem):
        sampler.now()
    assert sampler.now() == {0: 300} and sampler.now() == {0: 200}
    assert sampler.phase_peak() == sampler.peak_bytes == {0: 300}
