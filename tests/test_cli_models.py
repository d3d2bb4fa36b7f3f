"""Models and configs that cannot be used: one clear line each, with a hint and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import Capture, complaint, estimate


def a_config(**changes: Any) -> dict[str, Any]:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    config |= changes
    return {key: value for key, value in config.items() if value != "removed"}


@pytest.fixture
def write_config(tmp_path: Path) -> Any:
    def write(**changes: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(a_config(**changes)))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("", "--model is empty"),
        ("./no-such-folder", "does not exist"),
        ("/dev/null", "is neither a folder nor a .json file"),
        ("a/b/c/d", "does not exist"),
    ],
)
def test_a_model_that_is_not_there(model: str, expected: str, capsys: Capture) -> None:
    assert estimate(model=model) == 2
    message, hint = complaint(capsys)
    assert expected in message
    assert "lmplan models" in hint


def test_a_folder_without_a_config(tmp_path: Path, capsys: Capture) -> None:
    assert estimate(model=str(tmp_path)) == 2
    message, hint = complaint(capsys)
    assert "config.json" in message
    assert hint


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"hidden_size": 8,\n oops}', "line 2, column 2"),
        (b"", "not valid JSON"),
        (b"[]", "holds a list; expected an object"),
        (b"null", "holds null"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "a whole number of 5000 digits"),
    ],
    ids=["broken", "empty", "list", "null", "binary", "deep", "long number"],
)
def test_a_config_that_is_no_json_object(tmp_path: Path, content: bytes, expected: str, capsys: Capture) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert estimate(model=str(path)) == 2
    message, _ = complaint(capsys)
    assert expected in message


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"hidden_size": "removed"}, "hidden_size", "is missing; expected an integer"),
        ({"hidden_size": None}, "hidden_size", "is null; expected an integer"),
        ({"hidden_size": "512"}, "hidden_size", "is '512'; expected an integer"),
        ({"hidden_size": 0}, "hidden_size", "is 0; expected an integer"),
        ({"num_hidden_layers": -2}, "num_hidden_layers", "is -2; expected an integer"),
        ({"vocab_size": 10**12}, "vocab_size", "is 1000000000000; expected an integer"),
        ({"vocab_size": 1.5}, "vocab_size", "is 1.5; expected an integer"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "expected"),
        ({"torch_dtype": "int7"}, "torch_dtype", "expected one of"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings", "expected true or false"),
        ({"architectures": "removed"}, "architectures", "is missing or empty"),
        ({"architectures": []}, "architectures", "is missing or empty"),
        ({"max_position_embeddings": "removed"}, "max_position_embeddings", "is missing"),
    ],
)
def test_a_value_that_cannot_be_right_is_named_by_its_key(
    changes: dict[str, Any], key: str, expected: str, write_config: Any, capsys: Capture
) -> None:
    assert estimate(model=write_config(**changes)) == 2
    message, _ = complaint(capsys)
    assert key in message
    assert expected in message


def test_an_unsupported_architecture_is_named_with_the_list(write_config: Any, capsys: Capture) -> None:
    assert estimate(model=write_config(architectures=["FlyingSpaghettiForCausalLM"])) == 4
    message, hint = complaint(capsys)
    assert "FlyingSpaghettiForCausalLM" in message
    assert "LlamaForCausalLM" in hint


def test_no_network_and_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert estimate(model="no-such-org/no-such-model") == 5
    _, hint = complaint(capsys)
    assert hint
