"""Good examples of everything that lmplan reads, to be spoiled."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from planner.cli.main import run
from planner.data import ROOT
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.formats import W4A16, store
from planner.model.inventory import inventory
from quantize.checkpoint.synthetic import safetensors_header
from tests.fuzz.mutations import as_json

REPOSITORY = Path(__file__).parents[2]
CONFIGS = (
    "llama-3.1-8b",
    "qwen3-30b-a3b",
    "internvl3-8b",
    "internvl3-1b-hf",
    "qwen-7b-chat",
    "qwen3-8b-fp8",
    "qwen2-57b-a14b",
)


@cache
def catalog_config(name: str) -> dict[str, Any]:
    entry = catalog.load(name)
    assert entry is not None
    return entry.config


@cache
def small_checkpoint() -> tuple[bytes, bytes]:
    """A config.json and the JSON of a safetensors header of its AWQ form."""
    from planner.model.rewrite import quantized_config

    config = json.loads((REPOSITORY / "quantize" / "data" / "tiny-llama.json").read_text())
    groups = store(inventory(read_spec(config, "tiny")), W4A16)
    return as_json(quantized_config(config, W4A16)), safetensors_header(groups)[0][8:]


def torch_file(rng: random.Random) -> bytes:
    """A state dictionary of one tensor as torch saves it, or with a key that is hashed for ever."""
    text = (
        b"\x80\x02}" + _word("a.scales") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + _word("storage")
        + b"ctorch\nHalfStorage\n" + _word("0") + _word("cpu") + b"K\x10tQK\x00K\x02K\x08\x86K\x08K\x01\x86\x89"
        + b"ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip
    if rng.randrange(4) == 0:
        nested = b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(rng.choice((1, 35, 100))))
        text = b"\x80\x02}" + _word("a") + nested + b"K\x01s."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("model/data.pkl", text)
        file.writestr("model/data/0", bytes(32))
    return out.getvalue()


def _word(text: str) -> bytes:
    """A text as a pickle of protocol 2 has it."""
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _printed(words: list[str]) -> bytes:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        assert run(words) in (0, 3), words
    return out.getvalue().encode()


@cache
def plans() -> Mapping[str, list[bytes]]:
    one, two = ["--model", "qwen3-14b", "--gpu", "a10"], ["--model", "qwen3-14b", "--gpu", "a100-80g"]
    return {
        name: [_printed([name, *words, "--format", "json"]) for words in (one, two)]
        for name in ("estimate", "recommend", "report")
    }


@cache
def pair() -> tuple[bytes, bytes]:
    """A measurement of the ledger, and the estimate of the same start."""
    ledger = _shipped_ledger()
    measured = {"schema": "lmplan.measurement/1", **ledger["runs"][0]}
    name = measured["model"]["config"]
    measured["model"] = {"name": name, "config": ledger["configs"][name]}
    settings = measured["settings"]
    words = ["--model", name, "--gpu", "h200", "--free", f"{measured['free_before_bytes']}B", "--format", "json"]
    for key in ("cache_max_entry_count", "max_batch_size"):
        words += [f"--{key.replace('_', '-')}", str(settings[key])]
    return _printed(["estimate", *words]), as_json(measured)


@cache
def _shipped_ledger() -> dict[str, Any]:
    files = [path for path in (ROOT / "measurements").glob("*.json") if "first" not in path.name]
    found: dict[str, Any] = json.loads(files[0].read_text())
    return found


@cache
def ledger_file() -> bytes:
    ledger = _shipped_ledger()
    return as_json({**ledger, "runs": ledger["runs"][:2]})


def recipe(**values: Any) -> dict[str, Any]:
    """A recipe that needs neither a network nor weights."""
    calibration = {"dataset": "drawn", "samples": 4, "seqlen": 64}
    return {"model": "tiny-llama", "draw": True, "output": "out", "device": "cpu", "calibration": calibration, **values}


def parquet() -> bytes:
    """A table with a column of texts; nothing where there is no pyarrow to write one."""
    try:
        from pyarrow import BufferOutputStream, parquet, table
    except ImportError:
        return b"PAR1"
    out = BufferOutputStream()
    parquet.write_table(table({"text": ["some words", "and more"] * 20}), out)
    return bytes(out.getvalue())


@cache
def hosts_file() -> bytes:
    entry = {
        "product": "NVIDIA H200",
        "driver": "580.159.04",
        "lmdeploy": "0.18.0",
        "engine": "turbomind",
        "compute_capability": 90,
        "cuda_context_bytes": 552_000_000,
        "kernel_code_bytes": 446_000_000,
        "kernel_code_spread_bytes": 1000,
        "late_code_bytes": 0,
        "first_request_bytes": 2**20,
        "runs": 3,
        "communicator": [{"tp": 2, "size_bytes": 2**28, "late_bytes": 2**20, "runs": 1}],
    }
    return as_json({"schema": "lmplan.hosts/1", "hosts": [entry]})


LOG_LINES = (
    b"[TM][INFO] [BlockManager] block_size = 1 MB, max_block_count = 128, chunk_size = 16",
    b"2026-01-01 00:00:00 [TM][INFO] max cached tokens: 8192",
    b"[TM][INFO] Object cache budget: 107374.00 MB from free 134217.73 MB and ratio 0.800",
    b"[TM][WARNING] slab_size 33554432, object_size 1835008, object_count 18, ratio 0.98",
    b"lmdeploy - INFO - num_gpu_blocks=1000",
    b"model.layers.0, samples: 128, max gpu memory: 3.50 GB",
    b"model.layers.0 smooth weight done.",
    b"model.layers.0.self_attn.q_proj weight packed.",
    b"lmdeploy - INFO - build block tables: num_gpu_blocks: 1000",
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
)
