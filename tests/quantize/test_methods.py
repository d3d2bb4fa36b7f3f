"""Methods of quantization: each stands in one room, and everything that the rest asks of it is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quantize
from quantize.lite.methods import METHODS, find_method
from quantize.lite.versions import lite_version, newest_version, read_data
from quantize.recipe.model import MethodName

ROOT = Path(quantize.__file__).parent
HOME = ROOT / "lite" / "methods"


@pytest.mark.parametrize("name", MethodName)
def test_every_name_has_its_method_and_its_data(name):
    method = METHODS[name]
    assert method.name is name and find_method(method.checkpoint_method) is method
    assert {"arguments", "behaviour", "architectures", "held_out", "companions_of"} <= read_data()[name.value].keys()
    version = lite_version(newest_version(), name)
    assert version.calibrate and version.weights == "safetensors"


def test_what_only_a_method_knows_is_spelled_in_its_module():
    """Its command and its name in checkpoints. Recipes name it in an enum, tolerances go by formats that are served."""
    words = {word for method in METHODS.values() for word in (method.command, method.checkpoint_method)}
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        if HOME in path.parents:
            continue
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs]
        hits = [n.value for n in constants if isinstance(n.value, str) and words & set(n.value.split())]
        if hits:
            found.add(str(path.relative_to(ROOT)))
    assert found <= {"recipe/model.py", "measure/compare.py"}
