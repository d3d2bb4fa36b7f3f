"""``--model``: what it finds, in which order, and what it says where it finds nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.errors import UsageError
from planner.model import hub
from planner.model.source import read_config, resolve

Write = Callable[[Path, dict[str, tuple[str, list[int]]]], Path]


@pytest.fixture(autouse=True)
def neither_network_nor_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the Hub in these tests fails."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"asked the Hub for {arguments}")

    monkeypatch.setattr(hub, "find_cached", refuse)
    monkeypatch.setattr(hub, "download", refuse)


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: dict[str, object]) -> Path:
    path = tmp_path / "my-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tiny_llama))
    return path


def problem(model: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(model)
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def test_a_name_of_the_catalog() -> None:
    found = resolve("internlm2_5-7b")
    assert (found.name, found.origin, found.hf_id) == ("internlm2_5-7b", "catalog", "internlm/internlm2_5-7b-chat")
    assert found.config["architectures"] == ["InternLM2ForCausalLM"]
    assert (found.folder, found.checkpoint, found.revision, found.notes) == (None, None, None, ())
    assert resolve(" Llama3.1-8B ").name == "llama-3.1-8b"


def test_a_folder(folder: Path, write_safetensors: Write) -> None:
    found = resolve(str(folder))
    assert (found.name, found.origin, found.folder, found.checkpoint) == ("my-model", "folder", folder, None)
    assert found.config["hidden_size"] == 8
    write_safetensors(folder / "model.safetensors", {"a": ("F16", [4])})
    checkpoint = resolve(str(folder)).checkpoint
    assert checkpoint is not None
    assert checkpoint.total_bytes == 8


def test_a_folder_by_another_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert resolve(".").name == "my-model"
    assert resolve("../my-model/").name == "my-model"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/my-model").name == "my-model"


def test_a_folder_comes_before_the_catalog(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename("qwen3-8b")
    assert resolve("qwen3-8b").origin == "folder"
    Path("qwen3-8b/config.json").unlink()
    error = problem("qwen3-8b")
    assert error.message == "the folder qwen3-8b has no config.json"
    assert "catalog" in error.hint


def test_a_file_does_not_hide_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qwen3-8b").write_text("notes")
    assert resolve("qwen3-8b").origin == "catalog"


def test_a_snapshot_of_the_cache_is_called_by_its_id(folder: Path) -> None:
    snapshot = folder.parent / "models--org--na_me" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    assert resolve(str(snapshot)).name == "org/na_me"


def test_weights_that_cannot_be_read_are_said(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "are not safetensors" in resolve(str(folder)).notes[0]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert "none of the files" in resolve(str(folder)).notes[0]


def test_a_file(folder: Path, tmp_path: Path) -> None:
    found = resolve(str(folder / "config.json"))
    assert (found.name, found.origin, found.folder) == ("my-model", "file", None)
    other = tmp_path / "Llama-X.JSON"
    (folder / "config.json").rename(other)
    assert resolve(str(other)).name == "Llama-X"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1,\n "b": }', "is not valid JSON: line 2, column 7: Expecting value"),
        (b"", "is not valid JSON: line 1, column 1"),
        (b"[1]", "holds a list; expected an object"),
        (b"null", "holds null; expected an object"),
        (b"true", "holds true or false; expected an object"),
        (b"1e3", "holds a number; expected an object"),
        (b'"x"', "holds a text; expected an object"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds a whole number of"),
        (b'{"a": "' + b"x" * 10_000_000 + b'"}', "has more than 4194304 bytes"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
def test_a_config_that_cannot_be_read(folder: Path, content: bytes, expected: str) -> None:
    config = folder / "config.json"
    config.write_bytes(content)
    for model in (str(folder), str(config)):
        error = problem(model)
        assert error.message.startswith(str(config))
        assert expected in error.message


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_config(path) == {}


@pytest.mark.parametrize("model", ["./gone", "/gone/at/all", "~/gone", "../gone", "gone.json", "a/b/c", "~nobody/x"])
def test_a_path_to_nothing(model: str) -> None:
    error = problem(model)
    assert error.message == f"{model!r} does not exist"
    assert "lmplan models" in error.hint


def test_a_path_to_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert "is neither a folder nor a .json file" in problem(str(path)).message


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("internlm2_5-7", "Perhaps you meant internlm2_5-7b"),
        ("llama3-8", "llama-3-8b"),
        ("zzzzzzzz", "lmplan models"),
        ("org/", "lmplan models"),
        ("/@/", "lmplan models"),
        ("zzz@main", "lmplan models"),
        ("a" * 1000, "lmplan models"),
        ("nul\0l", "lmplan models"),
        ("两个", "lmplan models"),
        ("", "lmplan models"),
        ("  ", "lmplan models"),
        ("\n", "lmplan models"),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_an_unknown_name(model: str, hint: str) -> None:
    error = problem(model)
    assert hint in error.hint
    assert len(error.message) < 300


def test_a_hugging_face_id_asks_the_hub() -> None:
    with pytest.raises(AssertionError, match="HubId"):
        resolve("org/name")


def test_a_name_of_the_catalog_needs_no_heavy_import() -> None:
    code = (
        "import sys; from planner.model.source import resolve; resolve('qwen3-8b');"
        "heavy = {'huggingface_hub', 'torch', 'transformers', 'pydantic', 'httpx', 'requests', 'yaml'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
