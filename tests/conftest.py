"""What was calibrated on this machine stays out of the tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before any test module is imported: some plan while they are.
os.environ["LMPLAN_CONFIG_HOME"] = str(Path(__file__).parent / "no-calibration")
