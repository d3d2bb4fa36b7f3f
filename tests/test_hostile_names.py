"""Names that were made to do harm, through every command that shows them: a terminal, HTML, CSV, Markdown get text."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from planner.cli.main import run
from planner.errors import LmplanError
from planner.files.escape import markdown, terminal, visible
from planner.model import catalog
from planner.model.arch import read_spec
from planner.model.inventory import inventory
from quantize.checkpoint.synthetic import safetensors_header
from quantize.data import ROOT as DATA
from quantize.lite.failures import explain
from quantize.lite.process import RunResult
from quantize.system.child import Answer
from tests.commands import Lmplan

NAMES = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[1;1H",
    "=cmd|' /C calc'!A0",
    "@SUM(A1)",
    "$(touch owned)",
    "`id`",
    "#x onmouseover=alert(1)",
    "<script>alert(1)<",
    "--tp=9",
    "a'b\"c",
    "two\nVerdict: serves.",
    "a|b*c_d_",
    "n" * 250,
    "\u202egnp.exe",
    "zero\u200bwidth",
)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
EACH = pytest.mark.parametrize("name", NAMES)


def config(name: str = "qwen2.5-0.5b") -> dict[str, Any]:
    entry = catalog.load(name)
    assert entry is not None
    return entry.config


def clean(text: str) -> str:
    """Output as a terminal may get it: lines, spaces and colours, nothing that moves or hides."""
    assert terminal(text) == text
    return text


class Page(HTMLParser):
    """What a browser makes of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags |= {(tag, name) for name, _ in attributes} | {(tag, "")}

    def handle_data(self, data: str) -> None:
        self.text += data


def checked_page(text: str) -> Page:
    """A page without a script or a handler, whatever the names in it."""
    page = Page(text)
    assert not [tag for tag in page.tags if tag[0] == "script" or tag[1].startswith("on")]
    return page


@EACH
def test_a_model_s_folder(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    name = name.replace("/", "_")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()))
    model = f"./{name}"
    table = lmplan_here("estimate", "--gpu", "h200", "--model", model)
    assert table.returncode in (0, 8), table.stderr
    assert not [line for line in clean(table.stdout).splitlines() if line.startswith("Verdict: serves. (")]
    for words in (("estimate", "--format", "markdown"), ("recommend",), ("report", "--format", "markdown")):
        done = lmplan_here(*words, "--gpu", "h200", "--model", model)
        assert done.returncode in (0, 8), done.stderr
        heading = clean(done.stdout).splitlines()[0]
        if "markdown" in words:
            assert heading.startswith("## ") and markdown(name)[:40] in heading
    page = checked_page(lmplan_here("report", "--format", "html", "--gpu", "h200", "--model", model).stdout)
    assert visible(name) in page.text
    value = json.loads(lmplan_here("estimate", "--format", "json", "--gpu", "h200", "--model", model).stdout)
    assert value["model"]["name"].isprintable()


@EACH
def test_a_tensor_s_name(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    tiny = json.loads((DATA / "tiny-llama.json").read_text())
    path = folder / "model.safetensors"
    header, data_bytes = safetensors_header(inventory(read_spec(tiny, "tiny")))
    odd = {name: {"dtype": "F16", "shape": [2], "data_offsets": [data_bytes, data_bytes + 4]}}
    text = json.dumps({**json.loads(header[8:]), **odd}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + data_bytes + 4)
    (folder / "config.json").write_text(json.dumps(tiny))
    for form in ("table", "markdown"):
        done = lmplan_here("estimate", "--gpu", "h200", "--model", "m", "--format", form)
        assert done.returncode in (0, 8), done.stderr
        clean(done.stdout)
        assert "stored, but not expected" in " ".join(done.stdout.split())
        assert not [line for line in done.stdout.splitlines() if line.startswith("Verdict: serves.:")]
    (folder / "config.json").write_text(json.dumps({**tiny, "quantization_config": AWQ}))
    done = lmplan_here("inspect", "m")
    assert done.returncode == 7
    assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())
    assert not [line for line in done.stdout.splitlines() if line.startswith("Verdict")]
    assert json.loads(lmplan_here("inspect", "m", "--json").stdout)["passed"] is False
    broken = json.dumps({name: {"dtype": name, "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(broken)) + broken + bytes(4))
    done = lmplan_here("estimate", "--gpu", "h200", "--model", "m")
    assert done.returncode == 2 and len(clean(done.stderr).splitlines()) <= 2


@EACH
def test_a_shard_s_name(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()))
    path = folder / f"{name}.safetensors".replace("n" * 250, "n" * 240).replace("/", "_")
    path.write_bytes(b"\xff" * 8)
    done = lmplan_here("estimate", "--gpu", "h200", "--model", "m")
    assert done.returncode == 2 and "claims a header of" in done.stderr
    assert len(clean(done.stderr).splitlines()) == 2


@EACH
def test_a_fleet_s_names(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    fleet = {"workloads": [{"name": name, "model": "qwen3-8b"}], "machines": [{"name": name, "gpu": "h200"}]}
    (tmp_path / "fleet.yaml").write_text(json.dumps(fleet))
    table = lmplan_here("sweep", "fleet.yaml")
    if not name.isprintable():
        assert table.returncode == 2
        assert "expected one line of text that can be printed" in clean(table.stderr)
        assert len(table.stderr.splitlines()) <= 3
        return
    assert table.returncode == 0, table.stderr
    clean(table.stdout)
    rows = list(csv.reader(io.StringIO(lmplan_here("sweep", "fleet.yaml", "--format", "csv").stdout)))
    assert name in rows[1][0] and all(len(row) == len(rows[0]) for row in rows)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    page = checked_page(lmplan_here("sweep", "fleet.yaml", "--format", "html").stdout)
    assert name in page.text


@EACH
def test_keys_and_values_of_a_recipe(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    recipe = {"model": "tiny-llama", "output": "out", name: 1, "dtype": name, "calibration": {name: 2}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = lmplan_here("quantize", "recipe.yaml", "--dry-run")
    assert done.returncode == 2
    lines = clean(done.stderr).splitlines()
    assert all(line.startswith(("lmplan: recipe.yaml", "recipe.yaml:", "  ")) for line in lines)
    done = lmplan_here("quantize", "tiny-llama", "--dry-run", "--set", f"{name}=1")
    assert done.returncode == 2
    assert len(clean(done.stderr).splitlines()) <= 2


@EACH
def test_what_changed_between_plans(lmplan_here: Lmplan, tmp_path: Path, name: str) -> None:
    plan: dict[str, Any] = {"schema": "lmplan.estimate/1", "model": {}, "settings": {}, "per_gpu": {}}
    (tmp_path / "old.json").write_text(json.dumps({**plan, "verdict": "x"}))
    (tmp_path / "new.json").write_text(json.dumps({**plan, "verdict": name, name: {name: name}}))
    done = lmplan_here("report", "--diff", "old.json", "new.json")
    assert done.returncode == 0, done.stderr
    rows = clean(done.stdout).splitlines()
    assert len(rows) == 4 and len({row.replace("\\|", "").count("|") for row in rows}) == 1
    page = checked_page(lmplan_here("report", "--diff", "old.json", "new.json", "--format", "html").stdout)
    assert "verdict" in page.text
    as_json = lmplan_here("report", "--diff", "old.json", "new.json", "--format", "json").stdout
    assert {change["new"] for change in json.loads(clean(as_json))["changes"]} == {name}


@EACH
def test_a_child_s_last_words(name: str) -> None:
    error = explain(RunResult(1, 1.0, (f"RuntimeError: {name}",), None, None), f"/tmp/{name}/lmplan.log")
    assert isinstance(error, LmplanError) and error.message.isprintable()
    assert Answer(1, f"a warning\n{name}").last_line.isprintable()


@EACH
def test_names_in_a_comparison(
    lmplan_here: Lmplan, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["estimate", "--model", "qwen3-8b", "--gpu", "h200", "--format", "json"]) in (0, 8)
    estimate = json.loads(capsys.readouterr().out)
    measurement = {
        "schema": "lmplan.measurement/1",
        "complete": True,
        "outcome": "serves",
        "host": {"product": name, "memory_total_bytes": 1, "driver": name, "compute_capability": 90},
        "model": {"name": name},
        "checkpoint": {},
        "settings": {},
        "free_before_bytes": 1,
        "phases": [],
        "engine_log": {},
        "load_peak_bytes": 1,
        "peak_bytes": 1,
    }
    (tmp_path / "estimate.json").write_text(json.dumps(estimate))
    (tmp_path / "measurement.json").write_text(json.dumps(measurement))
    done = lmplan_here("compare", "estimate.json", "measurement.json")
    assert done.returncode == 2 and "the measurement of" in done.stderr
    assert len(clean(done.stderr).splitlines()) == 1
