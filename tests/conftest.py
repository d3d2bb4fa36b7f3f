"""What was calibrated on this machine stays out of the tests, what they start is this checkout, and none is missed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before any test module is imported: some plan while they are.
os.environ["LMPLAN_CONFIG_HOME"] = str(Path(__file__).parent / "no-calibration")
_PATHS = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _PATHS if path)
# Containers often forbid byte code; every process that a test starts would then compile lmplan again, 0.7 s each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Under nohup and in the background these are ignored, and what a test starts would go on ignoring them.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture
def lmplan_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run lmplan in this process, in `tmp_path`; an exception that gets out of it fails the test."""
    from planner.cli.main import run

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = run(list(words))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where LMPLAN_NO_SKIPS is set and a test was skipped for want of something, and not because it was asked."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("LMPLAN_NO_SKIPS"):
        return
    reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", [])]
    if any(not reason.endswith(" is set") for reason in reasons):
        reporter.write_line("tests were skipped where all have to run")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
