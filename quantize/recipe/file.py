"""Reading a recipe: a YAML file or a shipped name, then the environment, then ``--set``; every error has its line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from planner.errors import UsageError, perhaps
from planner.files.escape import shown
from planner.files.reading import RECIPE, is_file, is_folder
from planner.files.yaml_file import NodePath, compose, line_of, one_line, parse_value, tree
from quantize.recipe.model import Calibration, Recipe

ENVIRONMENT_PREFIX: Final = "LMPLAN_RECIPE_"
_HERE: Final = Path(__file__).parents[1]
# In a wheel the recipes lie inside the package; in a source tree beside it.
_SHIPPED: Final = (_HERE / "shipped_recipes", _HERE.parent / "recipes")


@dataclass(slots=True)
class _Source:
    """Values on their way to a Recipe, and where each was given: ``recipe.yaml:7`` or ``--set bits``."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[NodePath, str] = field(default_factory=dict)

    def place(self, path: NodePath) -> str:
        """Where the value at `path`, or the nearest one around it, was given."""
        for length in range(len(path), -1, -1):
            around = path[:length]
            if around in self.places:
                return self.places[around]
        return self.name


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe, its name for messages and folders, and where each value was given."""

    recipe: Recipe
    name: str
    places: Mapping[NodePath, str]

    def place(self, *path: str) -> str:
        """Where a value was given, such as ``recipe.yaml:7``; the recipe's name where it was left out."""
        return self.places.get(path, self.name)


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with lmplan."""
    for folder in _SHIPPED:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_recipe(name: str, settings: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> LoadedRecipe:
    """Read the recipe `name`, a path or a shipped name.

    Args:
        name: ``my/recipe.yaml`` or ``tiny-llama``.
        settings: ``key=value`` or ``section.key=value``, each value in YAML; they win over the environment.
        environment: variables such as ``LMPLAN_RECIPE_CALIBRATION__BATCH_SIZE``; they win over the file.

    Raises:
        UsageError: no such recipe, no YAML, an unknown key or a value that cannot be, each with its place.
    """
    path = _find(name)
    source = _read_yaml(path)
    variables = os.environ if environment is None else environment
    for variable in sorted(variables):
        if variable.startswith(ENVIRONMENT_PREFIX):
            keys = tuple(part.lower() for part in variable.removeprefix(ENVIRONMENT_PREFIX).split("__"))
            _override(source, keys, variables[variable], shown(variable))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set '{shown(setting)}' is not key=value", "Such as --set calibration.batch_size=4")
        _override(source, tuple(part.strip() for part in key.split(".")), value, f"--set {shown(key.strip())}")
    try:
        recipe = Recipe.model_validate(source.values)
    except ValidationError as error:
        raise _explain_all(error.errors(include_url=False), source) from None
    return LoadedRecipe(recipe, path.stem, dict(source.places))


def _find(name: str) -> Path:
    path = Path(name)
    if is_file(path):
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if is_folder(path):
        raise UsageError(f"{shown(name)} is a folder; expected a recipe file")
    looks_like_path = path.suffix in (".yaml", ".yml") or path.parent != Path()
    what = f"there is no recipe file {shown(name)}" if looks_like_path else f"unknown recipe '{shown(name)}'"
    raise UsageError(what, perhaps(path.stem, shipped) or "Shipped: " + ", ".join(shipped))


def _read_yaml(path: Path) -> _Source:
    node = compose(path, RECIPE)
    if node is None:
        raise UsageError(f"{shown(path)} is empty; expected a recipe", "See `lmplan quantize --schema`")
    values, places = tree(node, path, RECIPE)
    if not isinstance(values, dict):
        raise UsageError(f"{shown(path)}:{line_of(node)}: expected `key: value` lines, such as `model: ...`")
    return _Source(shown(path), values, places)


def _override(source: _Source, keys: tuple[str, ...], text: str, place: str) -> None:
    value = parse_value(text, place)
    target = source.values
    for depth, key in enumerate(keys[:-1], 1):
        if target.get(key) is None:
            target[key] = {}
            source.places[keys[:depth]] = place
        child = target[key]
        if not isinstance(child, dict):
            raise UsageError(f"{place}: {shown(key)} is a value, not a section")
        target = child
    target[keys[-1]] = value
    source.places[keys] = place


def _explain_all(errors: list[ErrorDetails], source: _Source) -> UsageError:
    """All errors at once, in the order of the recipe's lines; what the environment or ``--set`` gave comes last."""

    def line(error: ErrorDetails) -> int:
        number = source.place(error["loc"]).removeprefix(f"{source.name}:")
        return int(number) if number.isdigit() else sys.maxsize

    found = [_explain(error, source) for error in sorted(errors, key=line)]
    if len(found) == 1:
        return found[0]
    lines = [f"{each.message}. {each.hint}" if each.hint else each.message for each in found]
    return UsageError("\n".join([f"{source.name} has {len(lines)} errors", *lines]))


def _explain(error: ErrorDetails, source: _Source) -> UsageError:
    path = error["loc"]
    place, key = source.place(path), shown(".".join(map(str, path)))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(path[:-1])
        close = perhaps(str(path[-1]), known)
        elsewhere = [f"calibration.{name}" for name in Calibration.model_fields if name == path[-1]]
        hint = f"Perhaps you meant {elsewhere[0]}" if elsewhere else close or "Known here: " + ", ".join(known)
        return UsageError(f"{place}: unknown key {key}", hint)
    if kind == "missing":
        return UsageError(f"{place}: {key} is missing", _description(path))
    given = one_line(repr(error["input"]), 40)
    if kind == "value_error":
        message = str(context["error"])
        about = f"{key} is {given}; " if message.startswith("expected") else f"{key}: "
        return UsageError(f"{place}: {about}{message}")
    return UsageError(f"{place}: {key} is {given}; expected {_expected(kind, context)}", _description(path))


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind in ("int_type", "int_from_float", "int_parsing"):
        return "a whole number"
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        words = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
        return next(f"{words[name]} {bound}" for name, bound in context.items() if name in words)
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    named = {
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_pattern_mismatch": "a text on one line",
        "string_too_short": "a text that is not empty",
        "model_type": "a section of `key: value` lines",
        "dict_type": "a section of `key: value` lines",
    }
    return named.get(kind, kind.replace("_", " "))


def _model_at(path: NodePath) -> type[BaseModel] | None:
    model: type[BaseModel] = Recipe
    for key in path:
        info = model.model_fields.get(str(key))
        if info is None:
            return None
        options = (info.annotation, *getattr(info.annotation, "__args__", ()))
        nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model


def _fields_at(path: NodePath) -> list[str]:
    model = _model_at(path)
    return list(model.model_fields) if model else []


def _description(path: NodePath) -> str:
    model = _model_at(path[:-1])
    info = model.model_fields.get(str(path[-1])) if model and path else None
    return (info.description or "").rstrip(".") if info else ""
