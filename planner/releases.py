"""How far two releases of LMDeploy lie apart."""

from __future__ import annotations

from packaging.version import Version


def release_distance(one: Version, other: Version) -> tuple[int, int, int]:
    """In the first number, then in the second, then in the third; less is nearer."""
    return abs(one.major - other.major), abs(one.minor - other.minor), abs(one.micro - other.micro)
