"""The list of mutants stays true to the code: each applies to one place and names tests that are there."""

from __future__ import annotations

import pytest

from tests.mutants import ROOT, Mutant, mutants

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.wrong for mutant in MUTANTS])
def test_a_mutant_changes_one_place_of_a_file(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    spoiled = mutant.spoil(source)
    assert spoiled != source
    if mutant.file.endswith(".py"):
        compile(spoiled, mutant.file, "exec")


def test_mutants_name_tests_that_are_there() -> None:
    assert len({mutant.wrong for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.tests for mutant in MUTANTS)
    assert [test for mutant in MUTANTS for test in mutant.tests if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize(("old", "times"), [("x + 2", 0), ("x", 2)])
def test_a_text_that_is_not_there_once_is_refused(old: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"{times} times; expected once"):
        Mutant("", "a.py", old, "y", ()).spoil("def f(x):\n    return x + 1\n")
