"""Nothing that came with a model runs unasked, and nothing of the last measurement is lost unasked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.model.arch import read_spec
from planner.model.inventory import inventory
from planner.model.own_code import own_code
from planner.model.source import resolve
from quantize.checkpoint.synthetic import write_checkpoint
from tests.commands import Lmplan
from tests.measure.conftest import MODEL, WORDS, Engine, as_planned, file_of, planned

AUTO_MAP = {
    "AutoConfig": "configuration_mine.MineConfig",
    "AutoModel": "owner/other--modeling_mine.MineModel",
}


def model(folder: Path, *, config: dict[str, Any] | None = None, **settings: dict[str, Any]) -> Path:
    """A model of the fake GPU's size in `folder`, with keys added to its config and files of settings beside it."""
    source = resolve(MODEL)
    write_checkpoint(folder, source.config, inventory(read_spec(source.config, MODEL)), fill="sparse")
    (folder / "config.json").write_text(json.dumps({**source.config, **(config or {})}))
    for name, value in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def seen(gpu: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((gpu / "seen.json").read_text())
    return found


def test_a_model_s_own_code_is_refused_by_name(lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "mine", config={"auto_map": AUTO_MAP})
    (folder / "configuration_mine.py").write_text("raise SystemExit('ran')")
    (folder / "helpers\x1b[2J.py").write_text("")
    engine(**as_planned(planned()))
    done = lmplan("measure", "--model", "mine")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "lmplan: mine comes with Python files that would run: "
        "configuration_mine.py, owner/other--modeling_mine.py, helpers\\x1b[2J.py",
        "  Read them, then give --trust-remote-code; --dry-weights measures the shapes without them",
    ]
    assert not (gpu / "seen.json").exists() and not (tmp_path / "measurement.json").exists()
    done = lmplan("measure", "--model", "mine", "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert seen(gpu)["trust_remote_code"] is True


@pytest.mark.parametrize("name", ["tokenizer_config", "processor_config", "preprocessor_config"])
def test_code_of_a_tokenizer_is_code_as_well(
    lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path, name: str
) -> None:
    model(tmp_path / "mine", **{name: {"auto_map": {"AutoTokenizer": ["tokenization_mine.Slow", None]}}})
    done = lmplan("measure", "--model", "mine")
    assert done.returncode == 2
    assert "would run: tokenization_mine.py" in done.stderr
    assert not (gpu / "seen.json").exists()


def test_a_model_without_code_is_not_trusted_either(lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path) -> None:
    model(tmp_path / "mine")
    (tmp_path / "mine" / "stray.py").write_text("raise SystemExit('ran')")
    engine(**as_planned(planned()))
    done = lmplan("measure", "--model", "mine")
    assert done.returncode == 0, done.stderr
    assert seen(gpu)["trust_remote_code"] is False


@pytest.mark.parametrize(("name", "own"), [(MODEL, False), ("internvl2-2b", True)])
def test_sparse_weights_bring_no_code_but_lmplan_s_own(
    lmplan: Lmplan, engine: Engine, gpu: Path, name: str, own: bool
) -> None:
    """The catalog's config of InternVL2 names files of its repository; the sparse checkpoint has a stand-in."""
    engine(**as_planned(planned(name, max_batch_size=8)))
    done = lmplan("measure", "--model", name, "--dry-weights", "--max-batch-size", "8", "--load-only")
    assert done.returncode == 0, done.stderr
    assert seen(gpu)["trust_remote_code"] is own


def test_what_runs_imports_nothing_of_the_folder_where_lmplan_was_started(
    lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path
) -> None:
    for name in ("csv", "json", "lmdeploy", "torch"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()")
    engine(**as_planned(planned()))
    done = lmplan(*WORDS)
    assert done.returncode == 0, done.stderr
    assert not [*tmp_path.glob("*.ran")]
    run = seen(gpu)
    assert run["cwd"] != str(tmp_path) and str(tmp_path) not in run["sys.path"] and "" not in run["sys.path"]
    if sys.version_info >= (3, 11):
        assert run["cwd"] not in run["sys.path"]


def test_settings_that_cannot_be_read_are_no_reason_to_trust(tmp_path: Path) -> None:
    assert own_code({"auto_map": "AutoConfig"}, None) == ()
    assert own_code({"auto_map": {"AutoConfig": 3, "AutoModel": "modeling.Mine"}}, None) == ("modeling.py",)
    folder = model(tmp_path / "mine")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "a.B"}, "auto_map": {}}')
    with pytest.raises(Exception, match="gives the key 'auto_map' twice"):
        own_code({}, folder)


def test_the_last_measurement_is_replaced_only_when_asked(
    lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path
) -> None:
    engine(**as_planned(planned()))
    path = tmp_path / "measurement.json"
    path.write_text("the last run")
    done = lmplan(*WORDS, "--load-only")
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["lmplan: measurement.json exists and is left alone", "  --force replaces it"],
    )
    assert path.read_text() == "the last run" and not (gpu / "seen.json").exists()
    assert lmplan(*WORDS, "--load-only", "--force").returncode == 0
    assert file_of(tmp_path)["complete"] is True


def test_a_measurement_goes_to_standard_output_alone(lmplan: Lmplan, engine: Engine, tmp_path: Path) -> None:
    engine(**as_planned(planned()))
    done = lmplan(*WORDS, "--load-only", "--out", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "lmplan.measurement/1"
    assert "Tolerance" in done.stderr
    assert [*tmp_path.glob("*.json")] == [] and not os.path.lexists(tmp_path / "-")


def test_a_link_is_not_followed(lmplan: Lmplan, engine: Engine, gpu: Path, tmp_path: Path) -> None:
    engine(**as_planned(planned()))
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "measurement.json").symlink_to(tmp_path / "precious")
    assert lmplan(*WORDS, "--load-only").returncode == 2
    assert lmplan(*WORDS, "--load-only", "--force").returncode == 0
    assert (tmp_path / "precious").read_text() == "precious"
