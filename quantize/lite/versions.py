"""What `lmdeploy lite` takes and does in the LMDeploy version at hand, from `data/lite.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from planner.data import read_toml
from planner.errors import EnvironmentProblem
from planner.lmdeploy.table import band
from quantize.data import ROOT as DATA
from quantize.recipe.model import MethodName


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A named calibration dataset: its repository on the Hub, and whether rows are laid end to end."""

    name: str
    hub: str
    packs: bool


@dataclass(frozen=True, slots=True)
class LiteVersion:
    """One version of LMDeploy as a method of its `lite` behaves in it; `data/lite.toml` explains the fields.

    Attributes:
        exact: False for a version newer than lmplan knows, which is taken to be like the newest that it knows.
        own: how the command takes arguments that other methods do not have.
        unpacked: language model -> substrings of the modules that the method leaves as they are.
    """

    version: str
    exact: bool
    device: bool
    dtype: bool
    trust_remote_code: bool
    data_free: bool
    auto_dtype: str
    weights: str
    wikitext_splits: tuple[str, ...]
    hf_form_vlm: bool
    datasets: tuple[DatasetInfo, ...]
    calibrate: frozenset[str]
    data_free_only: frozenset[str]
    companions: tuple[tuple[str, str], ...]
    own: Mapping[str, Any]
    unpacked: Mapping[str, tuple[str, ...]]

    @property
    def dataset_names(self) -> list[str]:
        """The named datasets of this version."""
        return [info.name for info in self.datasets]

    def held_out(self, architecture: str) -> tuple[str, ...]:
        """Substrings of module names that it leaves unpacked in a language model, and says so in config.json."""
        return self.unpacked.get(architecture, ())


def read_data() -> dict[str, Any]:
    """The parsed `quantize/data/lite.toml`."""
    return read_toml("lite.toml", DATA)


def newest_version() -> str:
    """The newest LMDeploy that the table covers."""
    version: str = read_data()["newest"]
    return version


def lite_version(text: str, method: MethodName) -> LiteVersion:
    """The behaviour of a method in LMDeploy `text`.

    Raises:
        EnvironmentProblem: not a version, or one before the oldest that lmplan knows.
    """
    data = read_data()
    try:
        version = Version(text)
    except InvalidVersion:
        raise EnvironmentProblem(f"LMDeploy calls its version {text[:40]!r}, which is no version number") from None
    if version < Version(data["oldest"]):
        raise EnvironmentProblem(
            f"LMDeploy {text} is older than {data['oldest']}, the oldest that lmplan quantizes with",
            "Upgrade it: pip install --upgrade lmdeploy",
        )
    newest = Version(data["newest"])
    # A pre-release behaves like the release that it leads to, as far as anyone can say.
    looked_up = min(Version(version.base_version), newest)
    loading, datasets, companions = (band(data[key], looked_up) for key in ("loading", "datasets", "companions"))
    ours = data[method.value]
    arguments, behaviour, architectures = (
        band(ours[key], looked_up) for key in ("arguments", "behaviour", "architectures")
    )
    held_out = ours["held_out"] if behaviour["names_held_out"] else {}
    return LiteVersion(
        version=text,
        exact=Version(version.base_version) <= newest,
        device=arguments["device"],
        dtype=arguments["dtype"],
        trust_remote_code=arguments["trust_remote_code"],
        data_free=behaviour["data_free"],
        auto_dtype=loading["auto_dtype"],
        weights=behaviour["weights"],
        wikitext_splits=tuple(loading["wikitext_splits"]),
        hf_form_vlm=loading["hf_form_vlm"],
        datasets=tuple(
            DatasetInfo(name, data["dataset_info"][name]["hub"], data["dataset_info"][name]["packs"])
            for name in datasets["names"]
        ),
        calibrate=frozenset(architectures["calibrate"]),
        data_free_only=frozenset(architectures["data_free_only"]),
        companions=tuple(companions["needs"].items()),
        own=arguments.get("own", {}),
        unpacked={name: tuple(modules) for name, modules in held_out.items() if name != "source"},
    )


def companions_of(architecture: str, method: MethodName) -> tuple[tuple[str, str], ...]:
    """Packages and ranges that a method needs for an architecture beyond what the version needs."""
    pairs: list[tuple[str, str]] = []
    for entry in read_data()[method.value]["companions_of"]:
        if entry["architecture"] == architecture:
            pairs += entry["needs"].items()
    return tuple(pairs)
