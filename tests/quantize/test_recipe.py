"""Recipes: strict, with the line of every mistake, the environment and --set on top, and a shipped schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import UsageError
from planner.model import catalog
from planner.model.arch import read_spec
from quantize.recipe.file import load_recipe, shipped_recipes
from quantize.recipe.model import Recipe, json_schema
from quantize.run.preflight import recipe_findings
from quantize.run.prepare import find_model
from tests.examples import examples

MINIMAL = "model: x\noutput: y\n"
SHIPPED_SCHEMA = Path(__file__).parents[2] / "quantize/data/recipe.schema.json"


def write(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ("", None, "is empty", "--schema"),
        ("# only a comment\n", None, "is empty", ""),
        ("- a\n", 1, "expected `key: value` lines", ""),
        ("just words\n", 1, "expected `key: value` lines", ""),
        ("output: y\n", 1, "model is missing", "A folder"),
        (MINIMAL + "modle: z\n", 3, "unknown key modle", "Perhaps you meant model"),
        (MINIMAL + "samples: 64\n", 3, "unknown key samples", "calibration.samples"),
        (MINIMAL + "calibration:\n  sample: 64\n", 4, "unknown key calibration.sample", "samples"),
        (MINIMAL + "calibration:\n  samples: [64]\n", 4, "calibration.samples is [64]; expected a whole number", ""),
        (MINIMAL + "calibration:\n  samples: 0\n", 4, "expected at least 1", ""),
        (MINIMAL + "calibration:\n  batch_size: big\n", 4, "from 1 to 4096, or auto", ""),
        (MINIMAL + "calibration: 3\n", 3, "a section of `key: value` lines", ""),
        (MINIMAL + "calibration: {dataset: c4, text: t.txt}\n", 3, "keep one of them", ""),
        (MINIMAL + "bits: 4.5\n", 3, "expected a whole number", ""),
        (MINIMAL + "bits: true\n", 3, "expected a whole number", ""),
        (MINIMAL + "dtype: fp16\n", 3, "expected 'auto', 'float16' or 'bfloat16'", ""),
        (MINIMAL + "draw: 1\n", 3, "expected true or false", ""),
        (MINIMAL + "model: z\n", 3, "model is given twice", ""),
        (MINIMAL + "check: {bytes_tolerance: .nan}\n", 3, "bytes_tolerance is nan", ""),
        (MINIMAL + "deployment: {}\n", 3, "deployment.gpu is missing", "lmplan gpus"),
        ("model: [x\n", 2, "not valid YAML", ""),
        ("model: &a x\noutput: *a\n", 2, "aliases", ""),
        ("model: !!python/name:os.system x\noutput: y\n", 1, "tags (!...) have no place", ""),
        ("? [a]\n: b\n", 1, "a key that is a word", ""),
        ("model: 2020-13-45\noutput: y\n", None, "not valid YAML", ""),
    ],
)
def test_every_mistake_has_its_line(tmp_path, text, line, said, hint):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path, (), {})
    place = f"{path}:{line}: " if line else path
    assert caught.value.message.startswith(place)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_deep_nesting_and_size_are_refused(tmp_path):
    with pytest.raises(UsageError, match="nested too deeply"):
        load_recipe(write(tmp_path, "[" * 500_000), (), {})
    with pytest.raises(UsageError, match="too many for a recipe"):
        load_recipe(write(tmp_path, "#" * (2**20 + 1)), (), {})


@settings(max_examples=examples(150), deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_give_a_traceback(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        load_recipe(str(path), (), {})


def test_set_wins_over_the_environment_and_that_over_the_file(tmp_path):
    path = write(tmp_path, MINIMAL + "calibration:\n  samples: 1\n  seqlen: 1\n")
    environment = {"LMPLAN_RECIPE_CALIBRATION__SAMPLES": "2", "LMPLAN_RECIPE_CALIBRATION__SEQLEN": "2", "LMPLAN_X": "1"}
    loaded = load_recipe(path, ["calibration.samples=3", "dtype=float16"], environment)
    assert loaded.recipe.calibration.samples == 3
    assert loaded.recipe.calibration.seqlen == 2
    assert loaded.recipe.dtype == "float16"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("calibration.samples", "is not key=value"),
        ("calibration.samples=many", "--set calibration.samples: calibration.samples is 'many'"),
        ("calibration.sample=3", "--set calibration.sample: unknown key"),
        ("model.name=3", "model is a value, not a section"),
        ("bits=[[[", "is not a YAML value"),
    ],
)
def test_wrong_settings_are_named(tmp_path, setting, said):
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, MINIMAL), [setting], {})
    assert said in caught.value.message


def test_wrong_environment_is_named(tmp_path):
    with pytest.raises(UsageError, match="LMPLAN_RECIPE_BITS: bits is 'four'"):
        load_recipe(write(tmp_path, MINIMAL), (), {"LMPLAN_RECIPE_BITS": "four"})


def test_unknown_recipes_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_recipe("tiny-lama", (), {})
    assert "tiny-llama" in caught.value.hint
    with pytest.raises(UsageError, match=r"there is no recipe file missing\.yaml"):
        load_recipe("missing.yaml", (), {})
    with pytest.raises(UsageError, match="is a folder"):
        load_recipe(str(tmp_path), (), {})


def test_hash_is_of_the_meaning(tmp_path):
    first = load_recipe(write(tmp_path, MINIMAL), (), {}).recipe
    second = load_recipe(write(tmp_path, "# why\noutput: y\nmodel: x\nbits: 4\n"), (), {}).recipe
    third = load_recipe(write(tmp_path, MINIMAL + "bits: 3\n"), (), {}).recipe
    assert first.sha256() == second.sha256() != third.sha256()


def test_shipped_schema_is_the_models_own():
    assert json.loads(SHIPPED_SCHEMA.read_text()) == json_schema()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_can_run(name):
    jsonschema.validate(yaml.safe_load(shipped_recipes()[name].read_text()), json_schema())
    recipe: Recipe = load_recipe(name, (), {}).recipe
    assert recipe.draw or catalog.load(recipe.model) is not None
    source = find_model(recipe)
    assert not list(recipe_findings(recipe, read_spec(source.config, source.name), source.config))
    assert recipe.output == name if not recipe.draw else f"{name}-w4a16"


def test_all_errors_are_told_at_once_in_the_order_of_the_lines(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: m\noutputt: o\nbits: many\ncalibration:\n  samples: -1\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path), ["deployment.gpu=7"], {})
    first, *lines = caught.value.message.splitlines()
    assert first == f"{path} has 5 errors"
    assert [line.removeprefix(f"{path}:").partition(":")[0] for line in lines[:4]] == ["1", "2", "3", "5"]
    assert "unknown key outputt. Perhaps you meant output" in lines[1]
    assert lines[4].startswith("--set deployment.gpu: deployment.gpu is 7; expected a text")
