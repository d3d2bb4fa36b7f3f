"""All artefacts of a plan, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.artefacts import commands, containers
from planner.artefacts.deployed import Deployed
from planner.artefacts.python_config import python_config
from planner.artefacts.quantize import quantize_recipe
from planner.footprint import MemoryEstimate
from planner.request import Load


@dataclass(frozen=True, slots=True)
class Artefact:
    """One text: `key` for machines, `title` for people, `file` to write it to."""

    key: str
    title: str
    file: str
    text: str


def artefacts(memory: MemoryEstimate, model: str, load: Load) -> tuple[Artefact, ...]:
    """Every artefact of a plan, in the order of use."""
    return tuple(_each(Deployed(memory, model, load)))


def _each(deployed: Deployed) -> Iterator[Artefact]:
    recipe = quantize_recipe(deployed)
    if recipe is not None:
        yield Artefact("quantize", "Quantize first, with `lmplan quantize quantize.yaml`", "quantize.yaml", recipe)
    yield Artefact("api_server", "API server", "serve.sh", commands.api_server(deployed) + "\n")
    yield Artefact("chat", "Chat in the terminal", "chat.sh", commands.chat(deployed) + "\n")
    yield Artefact("python", "Python", "serve.py", python_config(deployed))
    yield Artefact("compose", "Docker compose", "compose.yaml", containers.compose(deployed))
    yield Artefact("kubernetes", "Kubernetes", "kubernetes.yaml", containers.kubernetes(deployed))
    yield Artefact("swift", "ms-swift 3.5 and newer", "swift.sh", commands.swift_deploy(deployed) + "\n")
