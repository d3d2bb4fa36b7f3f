"""Wrongs put into a copy of this checkout one at a time, each of which the tests named beside it must notice.

`make mutants` plays all of `mutants.toml`; `python -m tests.mutants slabs` those whose file or description has a word.
Exits with 1 where a mutant survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "build", "dist")
_TESTS_FAILED = 1
"""pytest's exit code; any other says that the tests did not run."""
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong.

    Attributes:
        wrong: what the program then does.
        file: where, from the root of the checkout.
        old, new: what stands there, once, and what takes its place.
        tests: what pytest runs, of which at least one has to fail.
    """

    wrong: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def spoil(self, source: str) -> str:
        """The file with the wrong in it.

        Raises:
            ValueError: `old` is not there, or more than once.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file} has {self.old!r} {source.count(self.old)} times; expected once")
        return source.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Every entry of the list."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def outcome(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code and its last words, run in a copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "LMPLAN_WITHOUT_BROWSER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            words, cwd=copy, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return _TESTS_FAILED, f"no end within {_TIMEOUT_S} s"
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-15:])


def play(mutant: Mutant, copy: Path) -> str:
    """Empty where the tests notice the mutant; else what happened instead."""
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutant.spoil(whole), encoding="utf-8")
    try:
        code, said = outcome(copy, mutant.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    if code == _TESTS_FAILED:
        return ""
    return "survived" if code == 0 else f"the tests did not run:\n{said}"


def main(words: Sequence[str]) -> int:
    """Play the mutants that have one of `words` in their file or description; all without words."""
    chosen = [m for m in mutants() if not words or any(word in f"{m.file} {m.wrong}" for word in words)]
    if not chosen:
        print("no mutant has such a word")
        return 2
    with tempfile.TemporaryDirectory(prefix="lmplan-mutants-") as scratch:
        jobs = min(os.cpu_count() or 1, len(chosen))
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(shutil.copytree(ROOT, Path(scratch) / str(number), ignore=_LEFT_OUT))

        def each(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                return play(mutant, copy)
            finally:
                copies.put(copy)

        code, said = outcome(Path(scratch) / "0", sorted({test for mutant in chosen for test in mutant.tests}))
        if code:
            print(f"the tests fail as they are:\n{said}")
            return 2
        left = 0
        with ThreadPoolExecutor(jobs) as pool:
            for mutant, problem in zip(chosen, pool.map(each, chosen), strict=True):
                left += bool(problem)
                print(f"{problem or 'killed':8}  {mutant.file}: {mutant.wrong}", flush=True)
    print(f"{len(chosen) - left} of {len(chosen)} mutants killed")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
