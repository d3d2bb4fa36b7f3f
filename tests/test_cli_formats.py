"""What each format of an estimate holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from planner.cli.main import run
from planner.data import read_json
from tests.test_cli import Capture, estimate

SCHEMA = read_json("schemas/estimate-1.schema.json")
REPORT = ["report", "--model", "qwen2.5-0.5b", "--gpu", "a10"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("internlm2_5-7b", "a100-24g"),
        ("internlm2_5-7b", "a100-24g", "--lmdeploy", "0.5.3", "--weights", "w4a16", "--quant-policy", "4"),
        ("internvl2-26b", "a100-80g", "--tp", "2"),
        ("qwen3-30b-a3b", "h200", "--free", "70GiB"),
        ("llama-3.1-70b", "t4"),
        ("llama-3.1-8b", "h200", "--engine", "pytorch"),
        ("qwen2.5-7b", "rtx4090", "--lmdeploy", "0.99"),
    ],
    ids=" ".join,
)
def test_json_follows_its_schema(arguments: tuple[str, ...], capsys: Capture) -> None:
    model, gpu, *options = arguments
    code = estimate(*options, "--format", "json", model=model, gpu=gpu)
    plan = json.loads(capsys.readouterr().out)
    errors = [error.message for error in Draft202012Validator(SCHEMA).iter_errors(plan)]
    assert errors == []
    assert code == {"serves": 0, "serves until full load": 8}.get(plan["verdict"], 3)
    assert plan["fits"] == (plan["verdict"] == "serves") == (plan["reasons"] == [])
    assert plan["per_gpu"]["total_bytes"] == sum(term["bytes"] for term in plan["per_gpu"]["terms"])
    assert (plan["recommendation"]["settings"] is None) == (plan["recommendation"]["command"] is None)


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)

    def visit(node: dict[str, Any], path: str) -> None:
        if node.get("type") == "object":
            assert node["additionalProperties"] is False, path
            assert sorted(node["required"]) == sorted(node["properties"]), path
            for key, value in node["properties"].items():
                assert value.get("description") or "const" in value, f"{path}.{key}"
                visit(value, f"{path}.{key}")

    visit(SCHEMA, "")
    for name, definition in SCHEMA["$defs"].items():
        visit(definition, name)


def test_the_schema_can_be_printed(capsys: Capture) -> None:
    assert run(["estimate", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


def test_explain_prints_every_formula(capsys: Capture) -> None:
    assert estimate("--explain") == 0
    out = capsys.readouterr().out
    assert "How each number is computed" in out
    assert "32 layers x 8 kv heads x 2 x 64 tokens x" in out
    assert "2 x 92544 x 4096 x 2" in out
    assert "load staging" in out


def test_explain_in_markdown_is_a_code_block(capsys: Capture) -> None:
    assert estimate("--explain", "--format", "markdown") == 0
    out = capsys.readouterr().out
    assert out.count("```") == 4
    assert "How each number is computed" in out


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_the_sentence_that_users_need_most(form: str, capsys: Capture) -> None:
    assert estimate("--format", form) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "change how many tokens fit, not the footprint" in out


@pytest.mark.parametrize(
    ("ending", "begins"), [("html", "<!doctype html>"), ("HTM", "<!doctype html>"), ("md", "## "), ("Json", "{\n")]
)
def test_a_report_has_the_form_that_its_name_ends_in(ending: str, begins: str, tmp_path: Path) -> None:
    path = tmp_path / f"plan.{ending}"
    assert run([*REPORT, "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith(begins)


def test_a_report_is_a_page_where_nothing_says_otherwise(tmp_path: Path, capsys: Capture) -> None:
    assert run([*REPORT, "-o", str(tmp_path / "plan")]) == 0
    page = (tmp_path / "plan").read_text(encoding="utf-8")
    capsys.readouterr()
    assert run(REPORT) == 0
    assert capsys.readouterr().out == page
    assert page.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "checkpoint_bytes"),
    # An fp8 form keeps both embeddings in 16 bits, and 2 bytes a block of 128 x 128 besides its byte a weight.
    [("llama-3.1-8b", 16_060_522_496), ("qwen3-8b", 16_381_470_720), ("qwen3-8b-fp8", 9_436_551_168)],
)
def test_the_catalog_has_the_bytes_of_a_checkpoint_as_it_is_stored(
    name: str, checkpoint_bytes: int, capsys: Capture
) -> None:
    assert run(["models", "--format", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[name]["checkpoint_bytes"] == checkpoint_bytes
