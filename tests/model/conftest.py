"""Checkpoint files and a Hugging Face Hub to test against, both made on the spot."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from planner.model.dtypes import DType

Tensors = dict[str, tuple[str, list[int]]]
"""Name -> dtype and shape."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"

TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32,
}


def safetensors_bytes(tensors: Tensors) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + DType(dtype).size_bytes(math.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@pytest.fixture
def write_safetensors() -> Callable[[Path, Tensors], Path]:
    """Write a file of zeros with these tensors."""

    def write(path: Path, tensors: Tensors) -> Path:
        path.write_bytes(safetensors_bytes(tensors))
        return path

    return write


@pytest.fixture
def tiny_llama() -> dict[str, object]:
    """A config.json of a Llama of two layers."""
    return dict(TINY_LLAMA)


SHARDS: dict[str, Tensors] = {
    "model-00001-of-00002.safetensors": {"model.embed_tokens.weight": ("F16", [32, 8])},
    "model-00002-of-00002.safetensors": {"lm_head.weight": ("F16", [32, 8]), "model.norm.weight": ("F32", [8])},
}
INDEX = {"metadata": {}, "weight_map": {name: file for file, tensors in SHARDS.items() for name in tensors}}
CONFIG = json.dumps(TINY_LLAMA).encode()

REPOSITORIES: dict[str, dict[str, bytes]] = {
    "tests/single": {"config.json": CONFIG, "model.safetensors": safetensors_bytes({"a.weight": ("BF16", [3, 5])})},
    "tests/sharded": {
        "config.json": CONFIG,
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        **{name: safetensors_bytes(tensors) for name, tensors in SHARDS.items()},
    },
    "tests/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"x"},
    "tests/gguf-only": {"model.gguf": b"x"},
    "tests/broken-json": {"config.json": b'{"hidden_size": 8,\n  oops}'},
    "tests/odd-dtype": {
        "config.json": CONFIG,
        "model.safetensors": safetensors_bytes({"a": ("U8", [4])}).replace(b'"U8"', b'"F4"'),
    },
    # A published model, answered with another config to see which one is used.
    "Qwen/Qwen2.5-7B": {"config.json": CONFIG},
}
STATUS = {"tests/gated": 403, "meta-llama/Llama-3.1-8B": 403, "tests/bad-token": 401, "tests/down": 503}


class _Hub(BaseHTTPRequestHandler):
    """Answers the two requests that matter: HEAD and (ranged) GET of /org/name/resolve/revision/file."""

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, *, send_body: bool) -> None:
        org, name, verb, revision, *file = [*self.path.lstrip("/").split("/"), "", "", ""]
        repo = f"{org}/{name}"
        if verb != "resolve":
            # What newer releases of the library ask besides, such as /api/agent-harnesses.
            return self._refuse(404, "")
        if repo in STATUS:
            error = {403: "GatedRepo", 401: "", 503: ""}[STATUS[repo]]
            message = "Invalid credentials in Authorization header" if STATUS[repo] == 401 else ""
            return self._refuse(STATUS[repo], error, message)
        if repo == "tests/silent":
            threading.Event().wait(5)
            return None
        if repo not in REPOSITORIES:
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        body = REPOSITORIES[repo].get("/".join(file).rstrip("/"))
        if body is None:
            return self._refuse(404, "EntryNotFound")
        self._send(body, send_body)
        return None

    def _send(self, body: bytes, send_body: bool) -> None:
        wanted = self.headers.get("Range", "")
        part = body
        if wanted.startswith("bytes="):
            first, last = wanted.removeprefix("bytes=").split("-")
            part = body[int(first) : int(last) + 1]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
        self.send_header("ETag", f'"{hash(body) & (2**64 - 1):016x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if send_body:
            self.wfile.write(part)

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def fake_hub() -> Iterator[str]:
    """The address of a Hugging Face Hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
