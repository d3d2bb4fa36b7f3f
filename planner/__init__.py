"""Plan the GPU memory of language models served by LMDeploy.

>>> from planner import estimate  # or from lmplan: the same
>>> plan = estimate("internlm2_5-7b", "a100-24g")
>>> str(plan.verdict)
'serves'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.api.estimate import estimate as estimate

__version__ = "0.1.0"
DISTRIBUTION = "lmplan"
"""By which the package `lmplan` tells this one from another distribution's `planner`."""
__all__ = ["__version__", "estimate"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import planner.units` does not pay for the whole planner.
    if name == "estimate":
        from planner.api.estimate import estimate

        return estimate
    raise AttributeError(f"module 'planner' has no attribute {name!r}")
