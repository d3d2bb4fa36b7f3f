"""`lmplan compare`: rows, tolerance, refusals, both forms."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.cli.main import run
from planner.errors import UsageError
from planner.evidence.ledger import shipped_files
from quantize.measure.compare import compare
from quantize.measure.measurement import Measurement, from_object, read
from tests.measure.conftest import planned

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((Path(__file__).parents[2] / "planner/data/schemas/comparison-1.schema.json").read_text())
WISHES = {"cache_max_entry_count": 0.8, "max_batch_size": 128}
Capture = pytest.CaptureFixture[str]


LEDGER = json.loads(next(path for path in shipped_files() if path.name == "h200-lmdeploy-0.18.0.json").read_text())
# Runs of models cut to a few layers are of no model of the catalog.
WHOLE_MODELS = [index for index, value in enumerate(LEDGER["runs"]) if not value["model"]["name"].endswith("layers")]


def ledger_run(index: int) -> dict[str, Any]:
    """A run of the ledger as the file that `lmplan measure` wrote."""
    found = deepcopy(LEDGER["runs"][index])
    config = found["model"]["config"]
    found["model"]["config"] = LEDGER["configs"][config] if isinstance(config, str) else config
    return {"schema": "lmplan.measurement/1", **found}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The estimate and the measurement of one real run (qwen2.5-1.5b with 23 GiB free)."""
    measurement = ledger_run(0)
    assert measurement["model"]["name"] == "qwen2.5-1.5b"
    estimate, measured = tmp_path / "estimate.json", tmp_path / "measured.json"
    estimate.write_text(json.dumps(planned("qwen2.5-1.5b", free=measurement["free_before_bytes"], **WISHES)))
    measured.write_text(json.dumps(measurement))
    return estimate, measured


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, change in changes.items():
        value[key] = {**value[key], **change} if isinstance(change, dict) else change
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_real_run_is_the_golden_one(files: tuple[Path, Path], form: str, capsys: Capture) -> None:
    assert run(["compare", *map(str, files), "--format", form]) == 0
    text = capsys.readouterr().out
    path = GOLDEN / f"compare.{form}.txt"
    if os.environ.get("LMPLAN_WRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    if form == "json":
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(("share", "code"), [(1.005, 0), (0.995, 0), (1.02, 7), (0.98, 7)])
def test_outside_the_tolerance_the_exit_code_is_7(
    files: tuple[Path, Path], share: float, code: int, capsys: Capture
) -> None:
    value = json.loads(files[1].read_text())
    loaded = value["phases"][1]
    loaded["used_bytes"] = [int(loaded["used_bytes"][0] * share)]
    edit(files[1], phases=value["phases"])
    assert run(["compare", *map(str, files)]) == code
    assert ("OUTSIDE" in capsys.readouterr().out) == (code == 7)
    assert run(["compare", *map(str, files), "--tolerance", "0.05"]) == 0
    assert run(["compare", *map(str, files), "--tolerance", "0.001"]) == 7


def test_a_wrong_verdict_fails_whatever_the_numbers(files: tuple[Path, Path], capsys: Capture) -> None:
    edit(files[1], outcome="dies while loading")
    assert run(["compare", *map(str, files)]) == 7
    assert "Verdict: dies while loading; the estimate said: serves." in capsys.readouterr().out


def test_what_lies_in_the_estimate_s_band_passes(files: tuple[Path, Path]) -> None:
    estimate = json.loads(files[0].read_text())
    term = next(term for term in estimate["per_gpu"]["terms"] if term["name"] == "kv_cache")
    term["low_bytes"] //= 2
    measurement = read(files[1])
    measurement.engine_log["kv_budget_bytes"] = term["bytes"] * 3 // 4
    row = next(row for row in compare(estimate, measurement).rows if row.name == "KV budget")
    assert row.in_band and row.within(0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "lmplan.measurement/2"}, "its schema is 'lmplan.measurement/2', expected 'lmplan.measurement/1'"),
        ({"schema": "lmplan.ledger/1"}, "its schema is 'lmplan.ledger/1'"),
        ({"model": {"name": "another"}}, "the estimate is of qwen2.5-1.5b, the measurement of another"),
        ({"settings": {"engine": "pytorch"}}, "engine is pytorch, the estimate's is turbomind"),
        ({"settings": {"quant_policy": 8}}, "quant_policy is 8, the estimate's is 0"),
        ({"settings": {"cache_max_entry_count": 0.5}}, "cache_max_entry_count is 0.5, the estimate's is 0.8"),
        ({"settings": {"tp": 2}}, "tp is 2, the estimate's is 1"),
        ({"settings": {"session_len": 1}}, "session_len is 1, the estimate's is 131072"),
        ({"settings": {"weights": "w4a16"}}, "weights is w4a16, the estimate's is as-is"),
        ({"settings": {"lmdeploy": "0.17.0"}}, "lmdeploy is 0.17.0, the estimate's is 0.18.0"),
        ({"free_before_bytes": 2**34}, "the measurement began with 16.00 GiB free, the estimate with 22.98 GiB"),
    ],
)
def test_another_schema_or_setting_is_refused_with_the_difference(
    files: tuple[Path, Path], changes: dict[str, Any], said: str, capsys: Capture
) -> None:
    edit(files[1], **changes)
    assert run(["compare", *map(str, files)]) == 2
    assert said in capsys.readouterr().err


def test_the_version_that_ran_counts_where_the_settings_name_none(files: tuple[Path, Path], capsys: Capture) -> None:
    value = json.loads(files[1].read_text())
    del value["settings"]["lmdeploy"]
    value["host"]["lmdeploy"] = "0.16.0"
    files[1].write_text(json.dumps(value))
    assert run(["compare", *map(str, files)]) == 2
    assert "lmdeploy is 0.16.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", '"text"', "{}", '{"schema": "lmplan.measurement/1"}', "\x00", "[" * 100_000,
        '{"schema": "lmplan.measurement/1", "phases": 3}', '{"schema": "lmplan.measurement/1", "phases": [3]}',
        '{"schema": "lmplan.measurement/1", "phases": [{"name": "loaded"}]}',
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused_in_one_line(files: tuple[Path, Path], text: str, capsys: Capture) -> None:
    for index in (0, 1):
        broken = [*map(str, files)]
        path = files[0].with_name("broken.json")
        path.write_text(text)
        broken[index] = str(path)
        assert run(["compare", *broken]) == 2
        err = capsys.readouterr().err
        assert "broken.json" in err and len(err.strip().splitlines()) <= 2 and len(err) < 500


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"phases": [{"name": "loaded", "used_bytes": [], "peak_bytes": [1], "facts": {}}]},
            "phases[0].used_bytes is []; expected more of them",
        ),
        (
            {"phases": [{"name": "loaded", "used_bytes": ["1"], "peak_bytes": [1], "facts": {}}]},
            "phases[0].used_bytes[0] is '1'; expected a whole number",
        ),
        (
            {"phases": [{"name": "loaded", "used_bytes": [1], "peak_bytes": [1], "facts": 3}]},
            "phases[0].facts is 3; expected an object",
        ),
        ({"free_before_bytes": "much"}, "free_before_bytes is 'much'; expected a whole number"),
        ({"host": []}, "host is []; expected an object"),
        ({"engine_log": {"blocks": "9"}}, "engine_log.blocks is '9'; expected a whole number"),
        ({"engine_log": {"kv_budget_bytes": None}}, "engine_log.kv_budget_bytes is None; expected a whole number"),
        ({"outcome": "\x1b[2J"}, "outcome is '\\x1b[2J'; expected 'serves', "),
    ],
)
def test_a_hollow_measurement_is_refused_with_the_field(
    files: tuple[Path, Path], changes: dict[str, Any], said: str, capsys: Capture
) -> None:
    edit(files[1], **changes)
    assert run(["compare", *map(str, files)]) == 2
    assert f"measured.json: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_gpu": 3}, "per_gpu is 3; expected an object"),
        ({"settings": {"tp": {}}}, "settings.tp is {}; expected a whole number"),
        ({"gpu": {"free_bytes": "all"}}, "gpu.free_bytes is 'all'; expected a whole number"),
        ({"gpu": {"free_bytes": -1}}, "gpu.free_bytes is -1; expected greater than or equal to 0"),
        ({"verdict": "perhaps"}, "verdict is 'perhaps'; expected 'serves', 'serves until full load'"),
        ({"model": []}, "model is []; expected an object"),
        ({"model": {"name": ""}}, "model.name is ''; expected a text that is not empty"),
        ({"settings": {"engine": "vllm"}}, "settings.engine is 'vllm'; expected 'turbomind' or 'pytorch'"),
        ({"per_gpu": {"terms": []}}, "per_gpu: terms lacks kv_cache"),
        ({"per_gpu": {"terms": [{"name": "kv_cache"}]}}, "per_gpu.terms[0].bytes is missing (and 2 more)"),
    ],
)
def test_a_hollow_estimate_is_refused_with_the_field(
    files: tuple[Path, Path], changes: dict[str, Any], said: str, capsys: Capture
) -> None:
    edit(files[0], **changes)
    assert run(["compare", *map(str, files)]) == 2
    assert f"estimate.json: {said}" in capsys.readouterr().err


def test_files_that_are_not_there(files: tuple[Path, Path], capsys: Capture) -> None:
    assert run(["compare", "nothing.json", str(files[1])]) == 2
    assert run(["compare", str(files[0]), "nothing.json"]) == 2
    assert run(["compare", *map(str, files), "--tolerance", "1"]) == 2
    assert "--tolerance is 1" in capsys.readouterr().err


@pytest.mark.parametrize("index", WHOLE_MODELS[::7])
def test_runs_of_the_ledger_pass_their_own_estimate(index: int) -> None:
    value = ledger_run(index)
    measurement = from_object({k: v for k, v in value.items() if k != "schema"}, "ledger")
    assert isinstance(measurement, Measurement)
    weights = "w4a16" if value["checkpoint"]["format"] == "awq" else "as-is"
    wishes = {"weights": weights, **{k: v for k, v in value["settings"].items() if k != "lmdeploy"}}
    estimate = planned(value["model"]["name"], free=value["free_before_bytes"], **wishes)
    assert compare(estimate, measurement).passed


def test_an_estimate_of_another_schema_is_refused(files: tuple[Path, Path]) -> None:
    estimate = {**json.loads(files[0].read_text()), "schema": "lmplan.estimate/2"}
    with pytest.raises(UsageError, match="estimate/2"):
        compare(estimate, read(files[1]))


def test_the_schema_is_printed(capsys: Capture) -> None:
    assert run(["compare", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
