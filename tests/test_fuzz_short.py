"""A short, seeded run of the fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS


def test_spoiled_inputs_for_every_reader() -> None:
    words = ["--seconds", "600", "--inputs", "10", "--seed", "20261127"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = {line[:14].strip(): line[14:].split() for line in done.stdout.splitlines()}
    for name in TARGETS:
        assert rows[name][:2] == ["10", "0"], name
