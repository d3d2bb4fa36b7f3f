"""The folder in which a run works, beside its output, and the one rename that makes the output appear.

``<output>.lmplan-staging`` holds everything of a run. It is locked while any process of the run lives, so that what a
killed run left is told apart from a run at work. Nothing half-done ever carries the output's name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from planner.errors import EnvironmentProblem, UsageError
from planner.files.escape import shown

SUFFIX: Final = ".lmplan-staging"
_MARK: Final = "LMPLAN_STAGING"
_MARK_TEXT: Final = "A run of `lmplan quantize` works or worked here. The next run for the same output cleans it up.\n"


@dataclass(frozen=True, slots=True)
class Staging:
    """The folders of one run; `lock_fd` is to be inherited by its child processes."""

    root: Path
    output: Path
    lock_fd: int

    @property
    def work(self) -> Path:
        """Working folder of the child process."""
        return self.root / "work"

    @property
    def caches(self) -> Path:
        """Hugging Face caches of this run."""
        return self.root / "caches"

    @property
    def model(self) -> Path:
        """The drawn model, for recipes that draw one."""
        return self.root / "model"

    @property
    def result(self) -> Path:
        """What becomes the output."""
        return self.root / "result"

    @property
    def log(self) -> Path:
        """Everything that the child process printed."""
        return self.root / "lmplan.log"

    def publish(self) -> None:
        """Give the result the output's name, once all of it is on the disk.

        Raises:
            EnvironmentProblem: the disk refused, or something else has taken the name.
        """
        try:
            _sync(self.result)
            # rename() replaces an empty folder and nothing else.
            self.result.rename(self.output)
            _sync_folder(self.output.parent)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot put the result in place at {shown(self.output)}: {error.strerror or error}",
                f"The checked result is in {shown(self.result)}",
            ) from None

    def drop_inputs(self) -> None:
        """Remove what only the run needed, and keep the result and the log for a look."""
        for folder in (self.work, self.caches, self.model):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove all of it, the mark last."""
        with suppress(OSError):
            _clean(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


def staging_path(output: Path) -> Path:
    """Where a run for `output` works."""
    return output.with_name(output.name + SUFFIX)


def is_free(output: Path) -> bool:
    """Whether the output's name can be given: nothing is there, or an empty folder.

    Raises:
        OSError: nobody can say: a file stands on the way, or a name is too long.
    """
    try:
        return not any(output.iterdir())
    except FileNotFoundError:
        return not output.is_symlink()
    except NotADirectoryError:
        if output.exists():
            return False
        raise


@contextmanager
def open_staging(output: Path) -> Iterator[Staging]:
    """Make and lock the staging folder of `output`, after cleaning what a dead run left in it.

    The folder is kept when the block ends; `Staging.remove` removes it.

    Raises:
        EnvironmentProblem: another run is at work for the same output, or the folder cannot be made.
        UsageError: something else carries the staging folder's name.
    """
    # The child process works in another folder, so its paths must not be relative.
    output = output.absolute()
    root = staging_path(output)
    try:
        fd = _lock(root)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and root.is_dir() and os.access(root, os.W_OK):
            raise EnvironmentProblem(
                f"another run is at work for {shown(output)}", "Wait for it, or give this one another output"
            ) from None
        raise EnvironmentProblem(f"cannot write beside the output: {shown(root)}: {error.strerror or error}") from None
    try:
        staging = Staging(root, output, fd)
        if any(root.iterdir()) and not (root / _MARK).exists():
            raise UsageError(f"{shown(root)} is not a staging folder of lmplan", "Move it away, or give another output")
        _clean(root)
        (root / _MARK).write_text(_MARK_TEXT, encoding="utf-8")
        for folder in (staging.work, staging.caches, staging.result):
            folder.mkdir()
        yield staging
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {shown(root)}: {error.strerror or error}") from None
    finally:
        os.close(fd)


def clean_leftover(output: Path) -> bool:
    """Remove a staging folder that a dead run left; True where there was one."""
    root = staging_path(output)
    if not (root / _MARK).exists():
        return False
    try:
        with open_staging(output) as staging:
            staging.remove()
    except (EnvironmentProblem, UsageError):
        return False
    return True


def _lock(root: Path) -> int:
    while True:
        root.mkdir(parents=True, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ended between our open and our lock has removed the folder that we locked.
            if os.path.samestat(os.fstat(fd), root.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _clean(root: Path) -> None:
    for entry in root.iterdir():
        # The mark stays: a clean-up that is itself killed leaves a folder that is still recognised.
        if entry.name == _MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
