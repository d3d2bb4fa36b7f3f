"""A model by what the user calls it: its config, its checkpoint and what they mean, found to belong together."""

from __future__ import annotations

from planner.errors import UsageError
from planner.files.escape import shown
from planner.model.arch import read_spec
from planner.model.source import ModelSource, resolve
from planner.model.spec import ModelSpec


def find_model(model: str) -> tuple[ModelSource, ModelSpec]:
    """What ``--model`` means (`planner.model.source.resolve`), read.

    Raises:
        UsageError, ConfigError: there is none, its config cannot be used, or its weights are of another model.
        UnsupportedModelError: lmplan does not know its architecture.
        EnvironmentProblem: only the network could tell, and there is none.
    """
    source = resolve(model)
    spec = read_spec(source.config, source.name)
    if source.checkpoint is not None:
        from planner.model.formats import store
        from planner.model.inventory import inventory
        from planner.model.reconcile import belongs

        if not belongs(store(inventory(spec), spec.quantization), source.checkpoint):
            raise UsageError(
                f"{shown(source.checkpoint.source)} holds none of the tensors that its config.json leads to",
                "Put the config.json and the weights of one model there, or give the config.json itself",
            )
    return source, spec
