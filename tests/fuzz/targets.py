"""Everything that lmplan reads, each with good examples to spoil and a command that reads them."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cli.main import run
from planner.evidence import ledger_add
from tests.fuzz import examples, heard, words
from tests.fuzz.mutations import HOSTILE, NUMBERS, as_json, mutate, mutate_bytes, mutate_text

Run = Callable[[random.Random, Path], int]


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under attack: `run` makes one input in a folder, hands it over and returns an exit code."""

    name: str
    run: Run


def _spoiled(value: Any, rng: random.Random) -> bytes:
    """JSON with a few values changed, and now and then its bytes."""
    raw = as_json(mutate(value, rng))
    return mutate_bytes(raw, rng) if rng.randrange(8) == 0 else raw


def _config(rng: random.Random, folder: Path) -> int:
    config = examples.catalog_config(rng.choice(examples.CONFIGS))
    (folder / "config.json").write_bytes(_spoiled(config, rng))
    if rng.randrange(8) == 0:
        return run(["quantize", "tiny-llama", "--dry-run", "--set", f"model={folder}", "--set", "draw=false"])
    return run(["estimate", "--model", str(folder), "--gpu", rng.choice(("h200", "a10", "24GiB"))])


def _settings(rng: random.Random, folder: Path) -> int:
    """What lies beside a config and says whether code comes with it."""
    config, _ = examples.small_checkpoint()
    (folder / "config.json").write_bytes(config)
    value = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.Slow", None]}}
    name = rng.choice(("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"))
    (folder / name).write_bytes(_spoiled(value, rng))
    return run(["quantize", "tiny-llama", "--dry-run", "--set", f"model={folder}", "--set", "draw=false"])


def _safetensors(rng: random.Random, folder: Path) -> int:
    """A folder with a header, or an index and its files; headers lie about lengths, shapes and places."""
    config, header = examples.small_checkpoint()
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
    command = rng.choice((["inspect"], ["inspect", "--json"], ["estimate", "--gpu", "h200", "--model"]))
    return run([*command, str(folder)])


def _pickle(rng: random.Random, folder: Path) -> int:
    (folder / "config.json").write_bytes(examples.small_checkpoint()[0])
    raw = examples.torch_file(rng)
    (folder / "pytorch_model.bin").write_bytes(mutate_bytes(raw, rng) if rng.randrange(4) else raw)
    if rng.randrange(4) == 0:
        index = {"weight_map": {"a.scales": "pytorch_model.bin"}}
        (folder / "pytorch_model.bin.index.json").write_bytes(_spoiled(index, rng))
    return run(["inspect", str(folder)])


def _diff(rng: random.Random, folder: Path) -> int:
    forms = examples.plans()
    kind = rng.choice([*forms])
    (folder / "old.json").write_bytes(rng.choice(forms[kind]))
    (folder / "new.json").write_bytes(_spoiled(json.loads(rng.choice(forms[kind])), rng))
    order = [str(folder / "old.json"), str(folder / "new.json")]
    rng.shuffle(order)
    return run(["report", "--diff", *order, "--format", rng.choice(("html", "markdown", "json"))])


def _compare(rng: random.Random, folder: Path) -> int:
    estimate, measurement = (json.loads(raw) for raw in examples.pair())
    (folder / "measurement.json").write_bytes(_spoiled(measurement, rng))
    (folder / "estimate.json").write_bytes(as_json(estimate))
    form = rng.choice(("table", "json"))
    return run(["compare", str(folder / "estimate.json"), str(folder / "measurement.json"), "--format", form])


def _estimate(rng: random.Random, folder: Path) -> int:
    """An estimate that is compared, or taken for the plan of a measurement, which stops here for want of a GPU."""
    estimate, measurement = (json.loads(raw) for raw in examples.pair())
    path = folder / "estimate.json"
    path.write_bytes(_spoiled(estimate, rng))
    if rng.randrange(2):
        return run(["measure", "--plan", str(path), "--dry-weights", "--out", str(folder / "out.json")])
    (folder / "measurement.json").write_bytes(as_json(measurement))
    return run(["compare", str(path), str(folder / "measurement.json")])


def _hosts(rng: random.Random, folder: Path) -> int:
    (folder / "hosts.json").write_bytes(_spoiled(json.loads(examples.hosts_file()), rng))
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
    ledger, measurement = examples.ledger_file(), examples.pair()[1]
    if rng.randrange(2):
        ledger = _spoiled(json.loads(ledger), rng)
    else:
        measurement = _spoiled(json.loads(measurement), rng)
    (folder / "ledger.json").write_bytes(ledger)
    (folder / "run.json").write_bytes(measurement)
    return ledger_add.main([str(folder / "ledger.json"), str(folder / "run.json")])


def _recipe(rng: random.Random, folder: Path) -> int:
    raw = rng.choice([path.read_bytes() for path in sorted((examples.REPOSITORY / "recipes").glob("*.yaml"))])
    path = folder / "recipe.yaml"
    path.write_bytes(mutate_text(raw, rng))
    return run(["quantize", str(path), "--dry-run"])


def _recipe_words(rng: random.Random, folder: Path) -> int:
    keys = ("model", "output", "calibration.samples", "calibration.seed", "group_size", "deployment.gpu", "seed")
    settings = [f"{rng.choice((*keys, *HOSTILE))}={rng.choice((*HOSTILE, *map(str, NUMBERS)))}" for _ in range(2)]
    command = ["quantize", "tiny-llama", "--dry-run", "--set", f"output={folder / 'out'}"]
    return run([*command, *(word for setting in settings for word in ("--set", setting))])


def _manifest(rng: random.Random, folder: Path) -> int:
    """The manifest in a recipe's output: the run is finished, or the folder is not free."""
    output = folder / "out"
    output.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(as_json(examples.recipe(output=str(output))))
    (output / "lmplan.json").write_bytes(_spoiled({"recipe_sha256": "0" * 64, "finished_at": "2026-01-01"}, rng))
    return run(["quantize", str(recipe)])


def _text(rng: random.Random, folder: Path) -> int:
    """Calibration text of each kind."""
    suffix = rng.choice((".txt", ".jsonl", ".parquet"))
    raw = {
        ".txt": "one paragraph\n\nand another, ü\n".encode() * 20,
        ".jsonl": b"\n".join(as_json({"text": f"row {n} of the text"}) for n in range(30)),
        ".parquet": examples.parquet(),
    }[suffix]
    path = folder / f"text{suffix}"
    path.write_bytes(mutate_bytes(mutate_text(raw, rng) if suffix != ".parquet" else raw, rng))
    recipe = examples.recipe(output=str(folder / "out"), calibration={"text": str(path), "samples": 2, "seqlen": 16})
    (folder / "recipe.yaml").write_bytes(as_json(recipe))
    return run(["quantize", str(folder / "recipe.yaml"), "--dry-run"])


def _fleet(rng: random.Random, folder: Path) -> int:
    path = folder / "fleet.yaml"
    path.write_bytes(mutate_text((examples.REPOSITORY / "docs" / "fleet.yaml").read_bytes(), rng))
    return run(["sweep", str(path), "--format", rng.choice(("table", "csv", "json", "html"))])


TARGETS = {
    target.name: target
    for target in (
        Target("config.json", _config),
        Target("settings", _settings),
        Target("safetensors", _safetensors),
        Target("torch file", _pickle),
        Target("plan", _diff),
        Target("measurement", _compare),
        Target("estimate", _estimate),
        Target("hosts.json", _hosts),
        Target("ledger", _ledger),
        Target("recipe", _recipe),
        Target("recipe words", _recipe_words),
        Target("manifest", _manifest),
        Target("text", _text),
        Target("fleet", _fleet),
        Target("engine log", heard.log),
        Target("server", heard.server),
        Target("command line", words.line),
    )
}
