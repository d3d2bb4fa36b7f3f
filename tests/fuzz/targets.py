"""Everything that lmplan reads, each with good examples to spoil and a command that reads them."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from planner.cli.main import COMMANDS, lmplan, run
from planner.data import ROOT
from planner.evidence import ledger_add
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.formats import W4A16, store
from planner.model.inventory import inventory
from quantize.checkpoint.synthetic import safetensors_header
from quantize.lite.events import parse_line
from quantize.lite.methods import METHODS
from quantize.measure.engine_log import EngineLog
from quantize.recipe.file import load_recipe
from quantize.system.lines import LineSplitter
from tests.fuzz.mutations import HOSTILE, NUMBERS, as_json, mutate, mutate_bytes, mutate_text

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
Run = Callable[[random.Random, Path], int]


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under attack: `run` makes one input in a folder, hands it over and returns an exit code."""

    name: str
    run: Run


def _config(rng: random.Random, folder: Path) -> int:
    config = mutate(_catalog_config(rng.choice(CONFIGS)), rng)
    raw = as_json(config)
    (folder / "config.json").write_bytes(mutate_bytes(raw, rng) if rng.randrange(8) == 0 else raw)
    return run(["estimate", "--model", str(folder), "--gpu", rng.choice(("h200", "a10", "24GiB"))])


def _safetensors(rng: random.Random, folder: Path) -> int:
    """A folder with a header, or an index and its files; headers lie about lengths, shapes and places."""
    config, header = _small_checkpoint()
    (folder / "config.json").write_bytes(config)
    body = header
    if rng.randrange(2):
        body = as_json(mutate(json.loads(header), rng))
    if rng.randrange(3) == 0:
        body = mutate_bytes(body, rng)
    length = rng.choice((len(body), len(body), len(body), 0, len(body) + 1, 2**40, 2**63, rng.randrange(2**20)))
    data = struct.pack("<Q", length) + body + bytes(rng.choice((0, 64)))
    (folder / "model.safetensors").write_bytes(data)
    if rng.randrange(3) == 0:
        names = [name for name in json.loads(header) if name != "__metadata__"]
        index = {"metadata": {"total_size": 10}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_bytes(as_json(mutate(index, rng)))
    command = rng.choice((["inspect", str(folder)], ["estimate", "--gpu", "h200", "--model", str(folder)]))
    return run(command)


def _pickle(rng: random.Random, folder: Path) -> int:
    (folder / "config.json").write_bytes(_small_checkpoint()[0])
    (folder / "pytorch_model.bin").write_bytes(mutate_bytes(_torch_file(rng), rng))
    return run(["inspect", str(folder)])


def _diff(rng: random.Random, folder: Path) -> int:
    forms = _plans()
    kind = rng.choice([*forms])
    old, new = rng.choice(forms[kind]), mutate(json.loads(rng.choice(forms[kind])), rng)
    (folder / "old.json").write_bytes(old)
    raw = as_json(new)
    (folder / "new.json").write_bytes(mutate_bytes(raw, rng) if rng.randrange(10) == 0 else raw)
    order = [str(folder / "old.json"), str(folder / "new.json")]
    rng.shuffle(order)
    return run(["report", "--diff", *order, "--format", rng.choice(("html", "markdown", "json"))])


def _compare(rng: random.Random, folder: Path) -> int:
    estimate, measurement = (json.loads(raw) for raw in _pair())
    if rng.randrange(2):
        estimate = mutate(estimate, rng)
    else:
        measurement = mutate(measurement, rng)
    (folder / "estimate.json").write_bytes(as_json(estimate))
    (folder / "measurement.json").write_bytes(as_json(measurement))
    return run(["compare", str(folder / "estimate.json"), str(folder / "measurement.json")])


def _hosts(rng: random.Random, folder: Path) -> int:
    import os

    raw = as_json(mutate(json.loads(_hosts_file()), rng))
    (folder / "hosts.json").write_bytes(mutate_bytes(raw, rng) if rng.randrange(8) == 0 else raw)
    before = os.environ.get("LMPLAN_CONFIG_HOME")
    os.environ["LMPLAN_CONFIG_HOME"] = str(folder)
    try:
        return run(["estimate", "--model", "qwen3-8b", "--gpu", "h200", "--tp", rng.choice("12")])
    finally:
        if before is None:
            del os.environ["LMPLAN_CONFIG_HOME"]
        else:
            os.environ["LMPLAN_CONFIG_HOME"] = before


def _ledger(rng: random.Random, folder: Path) -> int:
    ledger, measurement = _ledger_file(), _pair()[1]
    if rng.randrange(2):
        ledger = as_json(mutate(json.loads(ledger), rng))
    else:
        measurement = as_json(mutate(json.loads(measurement), rng))
    (folder / "ledger.json").write_bytes(ledger)
    (folder / "run.json").write_bytes(measurement)
    return ledger_add.main([str(folder / "ledger.json"), str(folder / "run.json")])


def _recipe(rng: random.Random, folder: Path) -> int:
    raw = rng.choice([path.read_bytes() for path in sorted((REPOSITORY / "recipes").glob("*.yaml"))])
    path = folder / "recipe.yaml"
    path.write_bytes(mutate_text(raw, rng))
    return _caught(lambda: load_recipe(str(path), ()))


def _recipe_words(rng: random.Random, folder: Path) -> int:
    keys = ("model", "output", "calibration.samples", "calibration.seed", "quantization.group_size", "deployment.gpu")
    words = [f"{rng.choice((*keys, *HOSTILE))}={rng.choice((*HOSTILE, *map(str, NUMBERS)))}" for _ in range(3)]
    return _caught(lambda: load_recipe("tiny-llama", tuple(words)))


def _fleet(rng: random.Random, folder: Path) -> int:
    path = folder / "fleet.yaml"
    path.write_bytes(mutate_text((REPOSITORY / "docs" / "fleet.yaml").read_bytes(), rng))
    return run(["sweep", str(path), "--format", rng.choice(("table", "csv", "json", "html"))])


def _engine_log(rng: random.Random, folder: Path) -> int:
    log = EngineLog()
    splitter = LineSplitter()
    raw = b"\n".join(_LOG_LINES)
    for line in splitter.feed(mutate_bytes(mutate_text(raw, rng), rng)):
        log.read(line)
        for method in METHODS.values():
            parse_line(line, method.event)
    log.to_object()
    return 0


def _words(rng: random.Random, folder: Path) -> int:
    """A command line: options that exist with values that seldom fit, in any number."""
    name = rng.choice([*COMMANDS])
    command = lmplan.get_command(click.Context(lmplan), name)
    assert command is not None
    words = [name]
    params = [p for p in command.params if isinstance(p, click.Option) and not {"--help"} & set(p.opts)]
    if rng.randrange(4):
        words += _GOOD_START.get(name, [])
    for option in rng.sample(params, min(len(params), rng.choice((0, 1, 2, 4)))):
        words.append(rng.choice(option.opts))
        for _ in range(0 if option.is_flag else option.nargs):
            words.append(_value(option, rng, folder))
    if rng.randrange(4) == 0:
        words.insert(rng.randrange(len(words) + 1), rng.choice(HOSTILE))
    # Names that look like ids of the Hub are looked up there; a slash makes one.
    return run([word for word in words if "\0" not in word])


def _value(option: click.Option, rng: random.Random, folder: Path) -> str:
    if isinstance(option.type, click.Choice) and rng.randrange(3):
        return str(rng.choice(list(option.type.choices)))
    if isinstance(option.type, click.Path) or option.name in ("output", "out", "write", "folder"):
        return rng.choice((str(folder / "out.txt"), str(folder), "/dev/null", "-", ""))
    if rng.randrange(2):
        return str(rng.choice(NUMBERS))
    return rng.choice([text for text in HOSTILE if "/" not in text[1:]])


_GOOD_START: Mapping[str, list[str]] = {
    "estimate": ["--model", "qwen3-8b", "--gpu", "a10"],
    "recommend": ["--model", "qwen3-8b", "--gpu", "a10"],
    "report": ["--model", "qwen3-8b", "--gpu", "a10"],
    "sweep": ["docs/fleet.yaml"],
    "measure": ["--model", "qwen3-8b", "--python", "/nonexistent"],
    "quantize": ["--list"],
}
_LOG_LINES = (
    b"[TM][INFO] [BlockManager] block_size = 1 MB, max_block_count = 128, chunk_size = 16",
    b"2026-01-01 00:00:00 [TM][INFO] max cached tokens: 8192",
    b"model.layers.0, samples: 128, max gpu memory: 3.50 GB",
    b"model.layers.0 smooth weight done.",
    b"model.layers.0.self_attn.q_proj weight packed.",
    b"lmdeploy - INFO - build block tables: num_gpu_blocks: 1000",
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
)


def _caught(call: Callable[[], Any]) -> int:
    """The exit code of a call that the command line would make; what it says is checked as its output would be."""
    from planner.errors import LmplanError

    try:
        call()
    except LmplanError as error:
        click.echo(f"lmplan: {error.message}\n{error.hint}", err=True)
        return error.exit_code
    return 0


@cache
def _catalog_config(name: str) -> dict[str, Any]:
    entry = catalog.load(name)
    assert entry is not None
    return entry.config


@cache
def _small_checkpoint() -> tuple[bytes, bytes]:
    """A config.json and the JSON of a safetensors header of its AWQ form."""
    from planner.model.rewrite import quantized_config

    config = json.loads((REPOSITORY / "quantize" / "data" / "tiny-llama.json").read_text())
    groups = store(inventory(read_spec(config, "tiny")), W4A16)
    return as_json(quantized_config(config, W4A16)), safetensors_header(groups)[0][8:]


def _torch_file(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        key: Any = "a.weight"
        for _ in range(rng.choice((0, 1, 35))):
            key = (key, key) if rng.randrange(2) else (key,)
        file.writestr("model/data.pkl", pickle.dumps({key: [1, 2.0, "x"], "b": None}, protocol=2))
        file.writestr("model/data/0", bytes(16))
    return out.getvalue()


def _printed(words: list[str]) -> bytes:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        assert run(words) in (0, 3), words
    return out.getvalue().encode()


@cache
def _plans() -> Mapping[str, list[bytes]]:
    one, two = ["--model", "qwen3-14b", "--gpu", "a10"], ["--model", "qwen3-14b", "--gpu", "a100-80g"]
    return {
        name: [_printed([name, *words, "--format", "json"]) for words in (one, two)]
        for name in ("estimate", "recommend", "report")
    }


@cache
def _pair() -> tuple[bytes, bytes]:
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
def _ledger_file() -> bytes:
    ledger = _shipped_ledger()
    return as_json({**ledger, "runs": ledger["runs"][:2]})


@cache
def _hosts_file() -> bytes:
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


TARGETS = {
    target.name: target
    for target in (
        Target("config.json", _config),
        Target("safetensors", _safetensors),
        Target("torch file", _pickle),
        Target("plan", _diff),
        Target("measurement", _compare),
        Target("hosts.json", _hosts),
        Target("ledger", _ledger),
        Target("recipe", _recipe),
        Target("recipe words", _recipe_words),
        Target("fleet", _fleet),
        Target("engine log", _engine_log),
        Target("command line", _words),
    )
}
