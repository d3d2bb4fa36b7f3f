"""The planner as a library."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

import planner
from planner import estimate
from planner.errors import ConfigError, UnsupportedModelError, UsageError
from planner.hardware.gpu import find_gpu
from planner.units import GIB


def test_the_example_of_the_package() -> None:
    assert doctest.testmod(planner).failed == 0


def test_a_gpu_may_be_given_as_an_object_and_free_memory_as_a_number() -> None:
    by_name, by_object = (
        estimate("qwen3-8b", "h200", free="40GiB"),
        estimate("qwen3-8b", find_gpu("h200"), free=40 * GIB),
    )
    assert by_name.memory == by_object.memory


def test_a_context_of_its_own_length() -> None:
    assert estimate("qwen3-8b", "h200").context_tokens == 8192
    assert estimate("qwen3-8b", "h200", session_len=1024).context_tokens == 1024
    assert estimate("qwen3-8b", "h200", context=5).context_tokens == 5


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError):
        _ = planner.no_such_name  # type: ignore[attr-defined]


def test_errors_are_exceptions_with_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        estimate("qwen3-8c", "h200")
    assert "qwen3-8b" in caught.value.hint
    with pytest.raises(UnsupportedModelError):
        estimate("qwen-vl-chat", "h200")
    with pytest.raises(UsageError, match="expected as-is"):
        estimate("qwen3-8b", "h200", weights="w8a8")
    with pytest.raises(UsageError, match="--free"):
        estimate("qwen3-8b", "h200", free=-1)


def test_a_checkpoint_quantized_in_another_way_is_not_quantized_again() -> None:
    with pytest.raises(ConfigError, match="quantized already"):
        estimate("qwen3-8b-fp8", "h200", weights="w4a16")


def test_a_folder_with_a_config_alone_is_planned_and_served_from_there(tmp_path: Path) -> None:
    source = json.loads((Path(planner.__file__).parent / "data" / "models" / "qwen2.5-1.5b.json").read_text())
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(source["config"]))
    plan = estimate(str(folder), "h200")
    assert plan.checkpoint_bytes == 3_087_428_608
    assert plan.command is not None
    assert f"'{folder}'" in plan.command
