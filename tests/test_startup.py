"""`lmplan estimate` loads what it needs: each module is CPU time of every start (`make bench`)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from planner.data import read_toml, read_toml_table

ESTIMATE = ("estimate", "--model", "internlm2_5-7b", "--gpu", "a100-24g")
MAY_LOAD = (
    *("planner.engine", "planner.hardware", "planner.lmdeploy", "planner.memory", "planner.model"),
    *("planner.advise.candidates", "planner.advise.ladder", "planner.advise.suggestion", "planner.advise.weighing"),
    *("planner.api.estimate", "planner.artefacts.launch"),
    *("planner.cli.estimate", "planner.cli.lazy", "planner.cli.main", "planner.cli.options", "planner.cli.output"),
    *("planner.data", "planner.errors", "planner.evidence.bands", "planner.footprint", "planner.kinds"),
    *("planner.releases", "planner.request", "planner.start", "planner.units", "planner.verdict"),
    *("planner.files.escape", "planner.files.reading", "planner.files.writing"),
    *("planner.report.table", "planner.report.wording"),
)
"""Modules, and rooms all of which an estimate may need."""
MAY_NOT_LOAD = (
    *("planner.engine.pytorch", "planner.engine.turbomind.blocks"),  # one engine plans, not all
    *("planner.engine.turbomind.conversion", "planner.engine.turbomind.packing"),  # of quantized weights and of experts
    *("planner.model.hub", "planner.model.checkpoint", "planner.model.reconcile"),  # a catalog name has no files
    *("difflib", "hashlib", "logging", "queue", "secrets", "urllib.request"),
)


def _loaded(*arguments: str) -> set[str]:
    code = (
        "import sys, click, tabulate; theirs = set(sys.modules); from planner.cli.main import run; "
        f"assert run({arguments!r}) == 0; import json; print(json.dumps(sorted(set(sys.modules) - theirs)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _is_in(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_an_estimate_loads_only_what_it_needs() -> None:
    loaded = _loaded(*ESTIMATE)
    packages = {name.rpartition(".")[0] for name in loaded}
    ours = {name for name in loaded if name.partition(".")[0] in ("planner", "quantize")} - packages
    assert ours
    assert [name for name in sorted(ours) if not _is_in(name, MAY_LOAD)] == []
    assert [name for name in sorted(loaded) if _is_in(name, MAY_NOT_LOAD)] == []


TABLES = [name for name in read_toml("gpus.toml") if name != "slices"]
SLICES = [*read_toml("gpus.toml")["slices"]]


@pytest.mark.parametrize("name", TABLES)
def test_a_card_read_alone_is_as_in_the_whole_file(name: str) -> None:
    assert read_toml_table("gpus.toml", name) == read_toml("gpus.toml")[name]


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_read_alone_is_as_in_the_whole_file(name: str) -> None:
    header = f'slices."{name}"' if "." in name else f"slices.{name}"
    assert read_toml_table("gpus.toml", header) == read_toml("gpus.toml")["slices"][name]


@pytest.mark.parametrize("header", ["slices", "a100", "A100-80G", "a100-80g]\n[h100"])
def test_no_other_header_is_a_table(header: str) -> None:
    assert read_toml_table("gpus.toml", header) is None
