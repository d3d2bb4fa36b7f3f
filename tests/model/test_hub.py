"""Hugging Face ids, against a Hub on this machine; no test leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from planner.model.hub import HubId, parse_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its environment when it is imported: hence a process of its own for each environment.
SCRIPT = """
import json, sys, time
from planner.errors import LmplanError
from planner.model import hub, source
hub._REQUEST_TIMEOUT_S = 1
hub._CONFIG_DEADLINE_S = 3

def answer(model):
    try:
        found = source.resolve(model)
    except LmplanError as error:
        return {"exit": error.exit_code, "message": error.message, "hint": error.hint}
    checkpoint = found.checkpoint
    return {
        "name": found.name, "origin": found.origin, "revision": found.revision, "notes": found.notes,
        "folder": found.folder and str(found.folder), "hf_id": found.hf_id,
        "hidden_size": found.config.get("hidden_size"),
        "tensors": checkpoint and sorted(checkpoint.tensors), "total_bytes": checkpoint and checkpoint.total_bytes,
        "source": checkpoint and checkpoint.source,
    }

answers = []
for model in sys.argv[1:]:
    start = time.monotonic()
    answers.append((answer(model), time.monotonic() - start))
print(json.dumps(answers))
"""

Answer = dict[str, Any]
Resolve = Callable[..., Answer]


def answers(models: Iterable[str], home: Path, endpoint: str, **environment: str) -> list[tuple[Answer, float]]:
    """What a process with that environment finds under each name, and the seconds that it takes."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        kept.pop(name, None)
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, *models],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    results: list[tuple[Answer, float]] = [(answer, seconds) for answer, seconds in json.loads(child.stdout)]
    for answer, _ in results:
        for text in (answer.get("message", ""), answer.get("hint", ""), *answer.get("notes", [])):
            assert "\n" not in text
    return results


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty Hugging Face home, cache included."""
    return tmp_path / "hf"


@pytest.fixture
def resolve(fake_hub: str, home: Path) -> Resolve:
    def run(model: str, *, endpoint: str = fake_hub, **environment: str) -> Answer:
        return answers([model], home, endpoint, **environment)[0][0]

    return run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen2.5-7B", HubId("Qwen/Qwen2.5-7B")),
        ("org/name@main", HubId("org/name", "main")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("org/name@" + COMMIT, HubId("org/name", COMMIT)),
        ("gpt2", None),
        ("a/b/c", None),
        ("org/name@", None),
        ("org/na--me", None),
        ("org/../name", None),
        ("org/name@a..b", None),
        ("org/name@-x", None),
        ("org/name.git", None),
        ("org/na me", None),
        ("/name", None),
        ("org/" + "n" * 97, None),
        ("org/name\n", None),
    ],
)
def test_ids(text: str, expected: HubId | None) -> None:
    assert parse_id(text) == expected


def test_a_repository_is_read_without_its_weights_and_cached(resolve: Resolve, fake_hub: str, home: Path) -> None:
    first = resolve("tests/sharded")
    assert first == {
        "name": "tests/sharded",
        "origin": "hub",
        "revision": COMMIT,
        "notes": [],
        "folder": None,
        "hf_id": "tests/sharded",
        "hidden_size": 8,
        "tensors": ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"],
        "total_bytes": 2 * 32 * 8 * 2 + 8 * 4,
        "source": f"Hugging Face Hub, tests/sharded@{COMMIT}",
    }
    assert not list(home.rglob("model-*.safetensors"))
    second = resolve("tests/sharded")
    assert second == {**first, "origin": "cache"}
    offline = resolve("tests/sharded", HF_HUB_OFFLINE="1")
    assert (offline["origin"], offline["revision"], offline["tensors"]) == ("cache", COMMIT, None)
    assert "HF_HUB_OFFLINE" in offline["notes"][0]
    unreachable = resolve("tests/sharded", endpoint="http://127.0.0.1:9")
    assert unreachable["origin"] == "cache"
    assert unreachable["tensors"] is None
    assert "are computed from config.json" in unreachable["notes"][0]


def test_a_single_file_and_a_revision(resolve: Resolve) -> None:
    found = resolve("tests/single@v1")
    assert (found["revision"], found["tensors"], found["total_bytes"]) == (COMMIT, ["a.weight"], 30)


def test_a_cached_snapshot_with_weights_is_the_folder(resolve: Resolve, home: Path, tmp_path: Path) -> None:
    resolve("tests/single")
    snapshot = next(home.rglob("config.json")).parent
    header = b'{"b.weight":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
    (snapshot / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    found = resolve("tests/single", HF_HUB_OFFLINE="1")
    assert (found["folder"], found["tensors"], found["notes"]) == (str(snapshot), ["b.weight"], [])
    (snapshot / "model.safetensors").write_bytes(b"half")
    half = resolve("tests/single")
    assert (half["folder"], half["tensors"]) == (None, ["a.weight"])
    assert "truncated" in half["notes"][0]


def test_weights_in_another_format_are_said(resolve: Resolve) -> None:
    found = resolve("tests/pickled")
    assert found["tensors"] is None
    assert "has no safetensors" in found["notes"][0]


REFUSED = {
    "tests/nothing": (2, "tests/nothing is not on the Hugging Face Hub", "HF_TOKEN"),
    "tests/gated": (2, "tests/gated is gated", "HF_TOKEN"),
    "tests/bad-token": (2, "refuses the token", "HF_TOKEN"),
    "tests/single@v9": (2, "tests/single has no revision v9", "branch"),
    "tests/gguf-only": (2, "tests/gguf-only has no config.json", ""),
    "tests/broken-json": (2, "config.json of tests/broken-json is not valid JSON: line 2, column 3", ""),
    "tests/odd-dtype": (2, "dtype 'F4'", ""),
    "tests/down": (5, "503", "lmplan models"),
    "tests/silent": (5, "no answer", "lmplan models"),
    "Qwen/Qwen3-8BB": (2, "Qwen/Qwen3-8BB is not on the Hugging Face Hub", "Perhaps you meant Qwen/Qwen3-8B"),
    "qwen2.5-7b@v9": (2, "Qwen/Qwen2.5-7B has no revision v9", ""),
}


@pytest.fixture(scope="module")
def refused(fake_hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Answer, float]]:
    """What is said of every model of REFUSED, one after the other in one process."""
    found = answers(REFUSED, tmp_path_factory.mktemp("hf"), fake_hub)
    return dict(zip(REFUSED, found, strict=True))


@pytest.mark.parametrize("model", REFUSED)
def test_what_the_hub_refuses(refused: dict[str, tuple[Answer, float]], model: str) -> None:
    exit_code, message, hint = REFUSED[model]
    answer, seconds = refused[model]
    assert seconds < 20
    assert answer["exit"] == exit_code
    assert message in answer["message"]
    assert hint in answer["hint"]


def test_no_network_and_offline(resolve: Resolve) -> None:
    no_network = resolve("tests/single", endpoint="http://127.0.0.1:9")
    assert no_network["exit"] == 5
    assert no_network["message"].startswith("cannot ask http://127.0.0.1:9 for tests/single: ")
    offline = resolve("tests/single", HF_HUB_OFFLINE="1")
    assert offline["exit"] == 5
    assert "HF_HUB_OFFLINE" in offline["message"]


def test_a_model_of_the_catalog_asks_the_hub_first(resolve: Resolve) -> None:
    found = resolve("qwen/qwen2.5-7b")
    assert (found["origin"], found["name"], found["hidden_size"]) == ("hub", "Qwen/Qwen2.5-7B", 8)
    pinned = resolve("qwen2.5-7b@main", HF_HUB_OFFLINE="1")
    assert (pinned["origin"], pinned["hidden_size"]) == ("cache", 8)


def test_the_shipped_config_stands_in_where_the_hub_cannot(resolve: Resolve) -> None:
    offline = resolve("Qwen/Qwen2.5-7B", HF_HUB_OFFLINE="1")
    assert (offline["origin"], offline["name"], offline["hidden_size"]) == ("catalog", "qwen2.5-7b", 3584)
    assert "shipped with lmplan" in offline["notes"][0]
    gated = resolve("meta-llama/Llama-3.1-8B")
    assert (gated["origin"], gated["name"]) == ("catalog", "llama-3.1-8b")
    assert "is gated" in gated["notes"][0]


def test_a_cache_that_cannot_be_written(resolve: Resolve, home: Path) -> None:
    home.write_text("a file where the cache should go")
    result = resolve("tests/single")
    assert result["exit"] == 5
    assert "Hugging Face cache" in result["message"]


def test_planning_does_not_import_the_library() -> None:
    code = (
        "import sys, planner.model.source; print([m for m in ('huggingface_hub', 'safetensors') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
