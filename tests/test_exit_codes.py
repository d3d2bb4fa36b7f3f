"""What goes wrong inside a command, and the line and the code that come of it."""

from __future__ import annotations

import errno
import os

import click
import pytest

from planner import errors
from planner.cli import main

Capture = pytest.CaptureFixture[str]


def end_with(problem: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> tuple[int, str]:
    """The exit code and the lines of a command that ends in `problem`."""

    def fail(**_: object) -> None:
        raise problem

    monkeypatch.setattr(main.lmplan, "main", fail)
    monkeypatch.setattr(main, "_silence", lambda: None)
    code = main.run(["estimate"])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_more(code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    said = f"lmplan: cannot write the output: {os.strerror(code)}\n  Free disk space, or print elsewhere\n"
    assert end_with(OSError(code, os.strerror(code)), monkeypatch, capsys) == (5, said)


def test_a_bug_of_ours_is_not_called_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        end_with(OSError(errno.EBADF, os.strerror(errno.EBADF)), monkeypatch, capsys)


def test_an_interruption(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert end_with(click.exceptions.Abort(), monkeypatch, capsys) == (130, "lmplan: interrupted\n")


def test_a_reader_that_went_away(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert end_with(BrokenPipeError(), monkeypatch, capsys) == (0, "")


PROBLEMS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LmplanError)]


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
def test_every_problem_has_its_code(
    kind: type[errors.LmplanError], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert kind.exit_code in range(1, 9)
    assert end_with(kind("what", "hint"), monkeypatch, capsys) == (kind.exit_code, "lmplan: what\n  hint\n")
    assert end_with(kind("what"), monkeypatch, capsys) == (kind.exit_code, "lmplan: what\n")
