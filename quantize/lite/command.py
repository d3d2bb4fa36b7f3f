"""The words and the environment with which a command of `lmdeploy lite` is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.model.dtypes import DType
from quantize.lite.method import Method
from quantize.lite.versions import LiteVersion
from quantize.recipe.model import Recipe


@dataclass(frozen=True, slots=True)
class Folders:
    """Where one run keeps its things.

    Attributes:
        model: the weights that are read.
        work: the working folder of the process, with own text in a folder of a dataset's name.
        caches: the Hugging Face caches of this run alone.
        result: what it writes.
    """

    model: Path
    work: Path
    caches: Path
    result: Path


def build_arguments(
    method: Method, recipe: Recipe, version: LiteVersion, folders: Folders, *, dataset: str | None, batch_size: int
) -> list[str]:
    """The arguments after `lmdeploy`, for that version.

    Args:
        method: what quantizes.
        recipe: the job; what the version cannot do is the preflight's to refuse.
        version: how the installed LMDeploy spells its arguments.
        folders: the model and the result.
        dataset: the name for --calib-dataset, None for data-free.
        batch_size: sequences that a layer takes at once.
    """
    calibration = recipe.calibration
    samples = 0 if calibration.data_free else calibration.samples
    words = ["lite", method.command, str(folders.model), "--work-dir", str(folders.result)]
    if dataset is not None:
        words += ["--calib-dataset", dataset]
    words += ["--calib-samples", str(samples), "--calib-seqlen", str(calibration.seqlen)]
    words += ["--batch-size", str(batch_size)]
    words += method.options(recipe, version)
    if version.dtype:
        words += ["--dtype", recipe.dtype]
    if version.device:
        words += ["--device", recipe.device]
    if version.trust_remote_code and recipe.trust_remote_code:
        words.append("--trust-remote-code")
    return words


def unknown_options(words: list[str], options: frozenset[str]) -> list[str]:
    """The options of a command that the installed LMDeploy does not list in its --help."""
    return [word for word in words if word.startswith("--") and word not in options]


def build_environment(
    inherited: Mapping[str, str], recipe: Recipe, folders: Folders, *, own_dataset_cache: bool, offline: bool
) -> dict[str, str]:
    """The environment of the process.

    Args:
        inherited: the user's, which stays as it is but for the following.
        recipe: its device.
        folders: the caches of this run.
        own_dataset_cache: keep prepared datasets to this run. `datasets` files what it prepared under the dataset's
            name, so that one run's own text would turn up in the next one's wikitext2.
        offline: nothing has to be fetched: do not try, which costs half a minute where there is no network.
    """
    environment = dict(inherited)
    # Prints are block-buffered when piped; progress needs them as they come.
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONIOENCODING"] = "utf-8"
    if own_dataset_cache:
        environment["HF_DATASETS_CACHE"] = str(folders.caches / "datasets")
    # Copies of remote code are made per run, so that no run executes what another one left.
    environment["HF_MODULES_CACHE"] = str(folders.caches / "modules")
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
        environment["HF_DATASETS_OFFLINE"] = "1"
    if recipe.device == "cpu":
        # With a GPU in sight LMDeploy calls CUDA functions even for --device cpu.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def stored_dtype(recipe: Recipe, version: LiteVersion, loaded: DType) -> DType:
    """The float type of the result: that of the loaded weights, which scales, norms and embeddings keep.

    Args:
        recipe: its `dtype`.
        version: what ``auto`` means in it.
        loaded: the checkpoint's own type.
    """
    if version.dtype and recipe.dtype != "auto":
        return DType.F16 if recipe.dtype == "float16" else DType.BF16
    if loaded is DType.BF16 and version.auto_dtype == "float16":
        return DType.F16
    return loaded
