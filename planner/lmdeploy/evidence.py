"""Where a formula was traced: `planner/data/evidence.toml`, by subject, engine, version and compute capability."""

from __future__ import annotations

from functools import cache

from packaging.version import Version

from planner.data import read_toml
from planner.kinds import EngineName
from planner.lmdeploy.rules import Said, Trace
from planner.lmdeploy.table import Table
from planner.lmdeploy.words import Subject
from planner.memory.terms import Evidence
from planner.releases import release_distance

FILE = "evidence.toml"


@cache
def traced(subject: Subject, engine: EngineName, version: Version, capability: int) -> Evidence:
    """The evidence of the nearest trace: of the compute capability first, of the version then.

    Its kind is ``assumed`` where the subject depends on the compute capability and nobody traced this one.
    """
    found = [trace for trace in traces() if trace.engine is engine and subject in trace.subjects]
    nearest = min(
        found,
        key=lambda trace: (
            abs(trace.compute_capability - capability),
            release_distance(Version(trace.lmdeploy), version),
        ),
    )
    said = _said(subject)
    if said.elsewhere and nearest.compute_capability != capability:
        return Evidence("assumed", said.elsewhere.format(product=nearest.product))
    where = f"traced on {nearest.product.removeprefix('NVIDIA ')}, {nearest.lmdeploy}"
    head = f"{said.what} {where}" if said.what else where
    return Evidence("formula", f"{head}; {said.remark}" if said.remark else head)


@cache
def traces() -> tuple[Trace, ...]:
    """Every trace, checked."""
    table = _table()
    return tuple(table.one(Trace, "traced", entry) for entry in table.at("traced"))


@cache
def _said(subject: Subject) -> Said:
    return _table().one(Said, f"subjects.{subject}")


@cache
def _table() -> Table:
    return Table(read_toml(FILE), FILE)
