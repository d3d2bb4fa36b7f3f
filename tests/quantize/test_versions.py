"""The table of LMDeploy versions: no gaps, no overlaps, and commands that each version takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from planner.errors import EnvironmentProblem
from planner.model.dtypes import DType
from quantize.lite.command import Folders, build_arguments, build_environment, stored_dtype, unknown_options
from quantize.lite.methods import METHODS
from quantize.lite.versions import lite_version, read_data
from quantize.recipe.model import MethodName, Recipe

_RELEASES = """
0.5.3 0.6.0 0.6.1 0.6.2 0.6.2.post1 0.6.3 0.6.4 0.6.5 0.7.0 0.7.0.post3 0.7.1 0.7.2 0.7.3 0.8.0 0.9.0 0.9.1 0.9.2
0.9.2.post1 0.10.0 0.10.1 0.10.2 0.11.0 0.11.1 0.12.0 0.12.1 0.12.2 0.12.3 0.13.0 0.14.0 0.15.0 0.16.0 0.17.0 0.18.0
"""
RELEASES = _RELEASES.split()
FOLDERS = Folders(Path("/m"), Path("/w"), Path("/c"), Path("/r"))


def recipe(**values):
    return Recipe.model_validate({"model": "m", "output": "o", **values})


def build(version, dataset="wikitext2", **values):
    method, lite = METHODS[MethodName.AWQ], lite_version(version, MethodName.AWQ)
    return build_arguments(method, recipe(**values), lite, FOLDERS, dataset=dataset, batch_size=4)


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_has_one_band_of_each_subject(release):
    data = read_data()
    shared = {subject: data[subject] for subject in ("loading", "datasets", "companions")}
    own = {subject: data["awq"][subject] for subject in ("arguments", "behaviour", "architectures")}
    for subject, entries in {**shared, **own}.items():
        bands = [
            band for band in entries if SpecifierSet(band["versions"]).contains(Version(Version(release).base_version))
        ]
        assert len(bands) == 1, (subject, release)
        assert bands[0]["source"]
    assert lite_version(release, MethodName.AWQ).exact


def test_versions_out_of_range():
    with pytest.raises(EnvironmentProblem, match=r"older than 0\.5\.3"):
        lite_version("0.4.0", MethodName.AWQ)
    with pytest.raises(EnvironmentProblem, match="no version number"):
        lite_version("next", MethodName.AWQ)
    newer = lite_version("0.19.0", MethodName.AWQ)
    assert not newer.exact and newer.datasets == lite_version("0.18.0", MethodName.AWQ).datasets
    assert lite_version("0.16.0a1", MethodName.AWQ).exact


def test_arguments_of_0_5_3():
    words = build("0.5.3", search_scale=True, dtype="float16", trust_remote_code=True)
    assert words[words.index("--search-scale") + 1] == "True"
    assert "--dtype" not in words and "--trust-remote-code" not in words
    assert words[words.index("--device") + 1] == "cuda"
    assert "--search-scale" not in build("0.5.3")


def test_arguments_of_0_6_0_have_no_device():
    assert "--device" not in build("0.6.0")


def test_arguments_of_0_10_2():
    words = build("0.10.2", search_scale=True, trust_remote_code=True)
    assert words[words.index("--search-scale") + 1] == "--dtype"
    assert "--trust-remote-code" not in words


def test_arguments_of_0_18_0():
    words = build("0.18.0", trust_remote_code=True, device="cpu", calibration={"samples": 7, "seqlen": 9})
    assert words[:5] == ["lite", "auto_awq", "/m", "--work-dir", "/r"]
    assert "--trust-remote-code" in words
    for option, value in (
        ("--calib-samples", "7"),
        ("--calib-seqlen", "9"),
        ("--batch-size", "4"),
        ("--device", "cpu"),
    ):
        assert words[words.index(option) + 1] == value


def test_data_free_is_no_samples_and_no_dataset():
    words = build("0.18.0", dataset=None, calibration={"data_free": True})
    assert words[words.index("--calib-samples") + 1] == "0"
    assert "--calib-dataset" not in words


def test_unknown_options():
    assert unknown_options(["lite", "m", "--a", "1", "--b"], frozenset({"--a"})) == ["--b"]


@pytest.mark.parametrize(
    ("version", "wanted", "loaded", "stored"),
    [
        ("0.5.3", "auto", DType.BF16, DType.F16),
        ("0.10.2", "auto", DType.BF16, DType.F16),
        ("0.10.2", "bfloat16", DType.BF16, DType.BF16),
        ("0.18.0", "auto", DType.BF16, DType.BF16),
        ("0.18.0", "float16", DType.BF16, DType.F16),
        ("0.18.0", "auto", DType.F16, DType.F16),
    ],
)
def test_float_type_of_the_result(version, wanted, loaded, stored):
    assert stored_dtype(recipe(dtype=wanted), lite_version(version, MethodName.AWQ), loaded) is stored


def test_environment_keeps_caches_apart_and_hides_the_gpu_from_cpu_runs():
    inherited = {"HF_HOME": "/home/me", "PATH": "/bin"}
    own = build_environment(inherited, recipe(device="cpu"), FOLDERS, own_dataset_cache=True, offline=True)
    assert own["HF_DATASETS_CACHE"] == "/c/datasets" and own["HF_HUB_OFFLINE"] == "1"
    assert own["CUDA_VISIBLE_DEVICES"] == "" and own["PYTHONUNBUFFERED"] == "1"
    assert own["HF_HOME"] == "/home/me" and own["PATH"] == "/bin"
    theirs = build_environment(inherited, recipe(), FOLDERS, own_dataset_cache=False, offline=False)
    assert "HF_DATASETS_CACHE" not in theirs and "CUDA_VISIBLE_DEVICES" not in theirs
