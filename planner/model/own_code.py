"""Python files that come with a model: which would run once somebody lets them.

transformers takes a class from a file beside the config where ``auto_map`` names one: ``module.Class``, or
``owner/name--module.Class`` from another repository (`transformers/dynamic_module_utils.py`,
get_class_from_dynamic_module). It does so for configs, tokenizers and processors, and only when remote code is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from planner.files import reading
from planner.files.escape import shown

_SETTINGS: Final = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Files beside config.json in which transformers looks for ``auto_map``."""
_MOST: Final = 6
"""Names in a message."""


def has_own_code(config: Mapping[str, Any]) -> bool:
    """Whether the config's model comes with Python files that load it."""
    return isinstance(config.get("auto_map"), dict)


def own_code(config: Mapping[str, Any], folder: Path | None) -> tuple[str, ...]:
    """The Python files that loading a model would run, those named by its settings first; none for most models.

    Args:
        config: the parsed config.json.
        folder: where the model lies, None where its files are not on this machine.

    Raises:
        UsageError: a file of settings beside the config cannot be read.
    """
    named = list(_files(config))
    if folder is not None:
        for name in _SETTINGS:
            if reading.is_file(folder / name):
                named += _files(reading.read_object(folder / name, reading.SETTINGS))
        if named:  # what they import lies beside them
            named += sorted(path.name for path in folder.glob("*.py"))
    return tuple(dict.fromkeys(named))


def some_of(files: tuple[str, ...]) -> str:
    """Names of files for a message."""
    rest = len(files) - _MOST
    return ", ".join(shown(name) for name in files[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _files(settings: Mapping[str, Any]) -> Iterator[str]:
    """The files that the ``auto_map`` of one file of settings names."""
    classes = settings.get("auto_map")
    for value in classes.values() if isinstance(classes, dict) else ():
        for reference in value if isinstance(value, list) else [value]:  # a tokenizer has a slow class and a fast one
            if isinstance(reference, str):
                yield f"{reference.rpartition('.')[0] or reference}.py"
