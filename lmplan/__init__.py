"""lmplan as a library, and the entry of its command: what is public, imported on first use.

>>> from lmplan import estimate
>>> str(estimate("internlm2_5-7b", "a100-24g").verdict)
'serves'

A package and no module, since only a package can be marked as typed (PEP 561). It imports nothing of `planner` by
itself, so that it can tell when another distribution's package of that name stands in the way.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from planner import __version__
    from planner.api.advice import Advice
    from planner.api.advice import advise as recommend
    from planner.api.estimate import Plan, estimate
    from planner.errors import (
        CheckFailedError,
        ChildFailedError,
        ConfigError,
        DoesNotFitError,
        EnvironmentProblem,
        LmplanError,
        OverloadError,
        UnsupportedModelError,
        UsageError,
    )

__all__ = [
    "Advice",
    "CheckFailedError",
    "ChildFailedError",
    "ConfigError",
    "DoesNotFitError",
    "EnvironmentProblem",
    "LmplanError",
    "OverloadError",
    "Plan",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "estimate",
    "recommend",
]

_PLACES: Final = {
    "__version__": "planner:__version__",
    "estimate": "planner.api.estimate:estimate",
    "Plan": "planner.api.estimate:Plan",
    "recommend": "planner.api.advice:advise",
    "Advice": "planner.api.advice:Advice",
}
"""Where a public name is defined; errors are in `planner.errors`."""
_SHADOWED_EXIT_CODE: Final = 5
"""That of `planner.errors.EnvironmentProblem`, which cannot be imported then."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lmplan' has no attribute {name!r}")
    shadow = _shadow()
    if shadow is not None:
        raise ImportError("; ".join(_complaint(shadow)), name="planner", path=str(shadow))
    module, _, attribute = _PLACES.get(name, f"planner.errors:{name}").partition(":")
    return getattr(importlib.import_module(module), attribute)


def main() -> None:
    """The `lmplan` command."""
    shadow = _shadow()
    if shadow is not None:
        problem, remedy = _complaint(shadow)
        sys.stderr.write(f"lmplan: {problem}\n  {remedy}\n")
        sys.exit(_SHADOWED_EXIT_CODE)
    from planner.cli.main import main as run

    run()


def _shadow() -> Path | None:
    """The package `planner` that Python finds instead of lmplan's; None where it finds lmplan's."""
    own = Path(__file__).resolve().parents[1] / "planner"
    spec = importlib.util.find_spec("planner")
    if spec is None:
        return None
    found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), "")).resolve()
    package = found.parent if found.suffix else found
    if package != own:
        return package
    # In one site-packages the later installation overwrites the __init__.py of the earlier.
    distribution = getattr(importlib.import_module("planner"), "DISTRIBUTION", "")
    return None if distribution == "lmplan" else package


def _complaint(shadow: Path) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    on_path = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    remedy = "Install lmplan in an environment of its own: `pipx install lmplan`, or a new virtual environment"
    if shadow.parent in on_path:
        remedy = f"Take {shadow.parent} out of PYTHONPATH"
    return f"another package called planner, {shadow}, hides lmplan's own", remedy
