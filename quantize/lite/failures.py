"""What a failed LMDeploy run means: its last line that says something, and what to do about well-known ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Final

from planner.errors import ChildFailedError
from planner.files.escape import shown, visible
from quantize.lite.process import RunResult
from quantize.system.child import exit_words

_EXCEPTION: Final = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure)\b(?::|$)")
_BAR: Final = re.compile(r"\d+%\|")
_MAX_CHARACTERS: Final = 300
_HINTS: Final = (
    (re.compile(r"out of memory", re.I), "Lower calibration.samples times seqlen: all samples are on the GPU at once"),
    (re.compile(r"No space left on device|Errno 28"), "Make room on the disk; the same command starts over"),
    (
        re.compile(r"isnan|is nan|NaN", re.I),
        "The weights or activations overflow float16: set dtype: bfloat16 on a GPU, or other calibration text",
    ),
    (re.compile(r"trust_remote_code"), "Read the model's Python files, then set trust_remote_code: true"),
    (
        re.compile(
            r"ConnectionError|Couldn't reach|offline mode|MaxRetryError|LocalEntryNotFound|LocalEntryNotFoundError"
        ),
        "Without a network give your own text: calibration.text",
    ),
    (re.compile(r"does not support bfloat16"), "Set dtype: float16"),
    (re.compile(r"No module named '?([\w.]+)"), "Install what it misses into the environment of LMDeploy"),
)


def last_meaningful_line(tail: Sequence[str]) -> str:
    """The exception that ended a traceback, else the last line that is no progress bar."""
    said = [line.strip() for line in tail if line.strip() and not _BAR.search(line)]
    for line in reversed(said):
        if _EXCEPTION.match(line):
            return line[:_MAX_CHARACTERS]
    return said[-1][:_MAX_CHARACTERS] if said else "it printed nothing"


def explain(result: RunResult, log: str) -> ChildFailedError:
    """The error for a run that ended badly."""
    code = result.exit_code
    line = last_meaningful_line(result.tail)
    text = "\n".join(result.tail)
    hint = next((hint for pattern, hint in _HINTS if pattern.search(line)), "") or next(
        (hint for pattern, hint in _HINTS[:2] if pattern.search(text)), ""
    )
    if code < 0:
        if -code == signal.SIGKILL and not hint:
            hint = "The kernel kills what takes the last host memory: see dmesg, and the predicted host memory"
        ended = f"was {exit_words(code)}"
    else:
        ended = f"failed (exit {code})"
    return ChildFailedError(f"LMDeploy {ended}: {visible(line)}; its log is {shown(log)}", hint)
