"""The one way to write a file: it appears whole or not at all, never through a link, never over another unasked.

The text goes to a temporary file beside its place, to the disk, and only then under its name. A full disk, a signal or
a lost machine in between leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from planner.errors import EnvironmentProblem, UsageError
from planner.files.escape import shown

STDOUT: Final = "-"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAMES: Final = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""What the system says of a name that cannot be, whatever the machine."""
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""File systems without hard links say one of these."""


def write_text(path: Path, text: str, *, force: bool = False) -> bool:
    """Write `text` to `path` in UTF-8, or to standard output for ``-``; whether a file was replaced.

    Args:
        force: replace a file that is there already.

    Raises:
        UsageError: the name is empty, a folder, or taken (`force` replaces it); the folder does not exist.
        EnvironmentProblem: the disk is full or the place cannot be written.
    """
    if str(path) == STDOUT:
        sys.stdout.write(text)
        return False
    data = text.encode("utf-8")
    with _problems(path):
        if _is_stream(path):
            _pour(path, data)
            return False
    check_place(path, force=force)
    with _problems(path):
        return _replace(path, data, force=force)


def write_files(folder: Path, files: Mapping[str, str], *, force: bool = False) -> tuple[str, ...]:
    """Write several files into `folder`, made where it is missing; the names of those replaced.

    All places are looked at before the first file is written, so that a name that is taken leaves nothing half done.

    Raises:
        UsageError, EnvironmentProblem: as `write_text`.
    """
    if not str(folder) or str(folder) == ".":
        folder = Path()
    with _problems(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        check_place(folder / name, force=force)
    replaced = []
    for name, text in files.items():
        if write_text(folder / name, text, force=force):
            replaced.append(name)
    return tuple(replaced)


def write_state(path: Path, text: str) -> None:
    """Replace a file of lmplan's own. Hold `locked` around reading it and this, or lose what others wrote meanwhile.

    Raises:
        EnvironmentProblem: the disk is full or the place cannot be written.
    """
    with _problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text.encode("utf-8"), force=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of lmplan out while a state file is read and written anew.

    The lock is a file of its own, since the state file's inode changes with each write; it ends with the process.

    Raises:
        EnvironmentProblem: the folder cannot be written.
    """
    with _problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_place(path: Path, *, force: bool = False) -> None:
    """Whether a file could be written there, so that long work is not done for nothing.

    Raises:
        UsageError: the name is empty, a folder, or taken; the folder does not exist.
        EnvironmentProblem: the place cannot be looked at.
    """
    if not path.name:
        raise UsageError(f"{shown(path) or 'an empty name'} is no name for a file", "Use - for standard output")
    with _problems(path):
        if path.is_dir():
            raise UsageError(f"{shown(path)} is a folder; expected a name for a file")
        if not os.path.lexists(path.parent):
            raise UsageError(f"cannot write {shown(path)}: the folder {shown(path.parent)} does not exist")
        if not os.path.lexists(path):
            return
        if _is_stream(path):
            return
        if not force:
            what = "is a link" if path.is_symlink() else "exists"
            raise UsageError(f"{shown(path)} {what} and is left alone", "--force replaces it")
        if not path.is_symlink() and not path.is_file():
            raise UsageError(f"{shown(path)} is no regular file and is left alone")


def _is_stream(path: Path) -> bool:
    """Whether what stands there takes bytes without keeping them: /dev/null, a pipe of the shell's."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _pour(path: Path, data: bytes) -> None:
    """Write into a stream. A pipe that nobody reads is refused instead of waited for."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes, *, force: bool) -> bool:
    """`data` under its name; whether something was there."""
    part = path.with_name(f".{path.name[:200]}.{os.urandom(4).hex()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        there = os.path.lexists(path)
        if force:
            part.replace(path)
        else:
            _link(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return there


def _link(part: Path, path: Path) -> None:
    """Give a finished file its name, unless another process took it since."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise UsageError(f"{shown(path)} exists and is left alone", "--force replaces it") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        part.rename(path)


@contextlib.contextmanager
def _problems(path: Path) -> Iterator[None]:
    """What the system says of a place, in one line."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {shown(path)}: {error.strerror or error}"
        if error.errno in _NAMES:
            raise UsageError(message) from None
        hint = "Free disk space, or write elsewhere" if error.errno in _FULL else ""
        raise EnvironmentProblem(message, hint) from None
    except ValueError:  # a NUL in the name
        raise UsageError(f"cannot write {shown(path)}: no such name can exist") from None
