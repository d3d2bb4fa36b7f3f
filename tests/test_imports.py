"""Imports run one way, and planning pulls in nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmplan
import planner
import quantize

ROOTS = {package.__name__: Path(package.__file__).parent for package in (planner, quantize, lmplan)}
ROOMS = (
    (
        "planner",
        "planner.errors",
        "planner.units",
        "planner.clock",
        "planner.kinds",
        "planner.verdict",
        "planner.releases",
        "planner.data",
    ),
    ("planner.files",),
    ("planner.model",),
    ("planner.memory",),
    ("planner.hardware",),
    ("planner.lmdeploy",),
    ("planner.engine.base",),
    ("planner.engine.turbomind",),
    ("planner.engine.pytorch",),
    ("planner.engine",),
    ("planner.start",),
    ("planner.footprint", "planner.request"),
    ("planner.advise",),
    ("planner.evidence",),
    ("planner.artefacts",),
    ("planner.api",),
    ("planner.fleet",),
    ("planner.report",),
    ("planner.cli",),
    ("quantize", "quantize.data"),
    ("quantize.system",),
    ("quantize.checkpoint",),
    ("quantize.measure",),
    ("quantize.recipe",),
    ("quantize.lite",),
    ("quantize.quality",),
    ("quantize.run",),
    ("quantize.cli",),
    ("lmplan",),
)
"""Lowest first. A module imports from its own room and from those before it; no room imports one beside it."""
HEAVY = ("torch", "transformers", "lmdeploy", "huggingface_hub", "safetensors", "pydantic", "rich", "yaml", "numpy")


def _module_name(package: str, path: Path) -> str:
    parts = [package, *path.relative_to(ROOTS[package]).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(name, path): path for name, root in ROOTS.items() for path in sorted(root.rglob("*.py"))}


def _imports(path: Path) -> Iterator[str]:
    """Every project module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # `from planner.model import catalog` imports a module; `from planner.units import GIB` does not.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module or "" for name in names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ROOTS)


def room_of(module: str) -> tuple[int, str]:
    """The place of a module's room and its name: the longest name in ROOMS that the module's begins with."""
    found = [
        (len(name), index, name)
        for index, names in enumerate(ROOMS)
        for name in names
        if module == name or (name not in ROOTS and module.startswith(f"{name}."))
    ]
    assert found, f"{module} has no place in ROOMS"
    return max(found)[1:]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "planner"])
def test_a_module_imports_only_downwards(module: str) -> None:
    """All but `planner` itself, which names the library's entry and imports it on first use."""
    level, room = room_of(module)
    for name in _imports(MODULES[module]):
        other_level, other = room_of(name)
        assert other == room or other_level < level or level == 0, f"{module} imports {name}, which is above it"


def test_there_is_no_cycle() -> None:
    graph = {module: set(_imports(path)) - {module} for module, path in MODULES.items() if module != "planner"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done or module not in graph:
            return
        for name in graph[module]:
            visit(name, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_an_estimate_loads_nothing_heavy() -> None:
    code = f"""
import sys
from planner.cli.main import run
for form in ("table", "markdown", "json"):
    assert run(["estimate", "--model", "internlm2_5-7b", "--gpu", "a100-24g", "--format", form]) == 0
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
assert not any(name.partition(".")[0] == "quantize" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hugging_face_keys_are_spelled_in_one_place() -> None:
    """Past `planner.model` nobody opens a config.json."""
    keys = ("num_key_value_heads", "num_hidden_layers", "num_attention_heads", "torch_dtype", "quantization_config")
    for module, path in MODULES.items():
        if module.startswith("planner.model"):
            continue
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [key for key in keys if key in constants], module
