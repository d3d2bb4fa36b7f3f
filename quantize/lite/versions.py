"""What `lmdeploy lite auto_awq` takes and does in the LMDeploy version at hand, from `data/lite.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from planner.data import read_toml
from planner.errors import EnvironmentProblem
from planner.lmdeploy.versions import band
from quantize.data import ROOT as DATA


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A named calibration dataset: its repository on the Hub, and whether rows are laid end to end."""

    name: str
    hub: str
    packs: bool


@dataclass(frozen=True, slots=True)
class LiteVersion:
    """One version of LMDeploy as `lmdeploy lite auto_awq` behaves in it; `data/lite.toml` explains the fields.

    `exact` is False for a version newer than lmplan knows, which is taken to be like the newest that it knows.
    """

    version: str
    exact: bool
    device: bool
    search_scale: str
    dtype: bool
    trust_remote_code: bool
    data_free: bool
    auto_dtype: str
    weights: str
    wikitext_splits: tuple[str, ...]
    names_held_out: bool
    hf_form_vlm: bool
    datasets: tuple[DatasetInfo, ...]
    calibrate: frozenset[str]
    data_free_only: frozenset[str]
    companions: tuple[tuple[str, str], ...]

    @property
    def dataset_names(self) -> list[str]:
        """The named datasets of this version."""
        return [info.name for info in self.datasets]


def read_data() -> dict[str, Any]:
    """The parsed `quantize/data/lite.toml`."""
    return read_toml("lite.toml", DATA)


def newest_version() -> str:
    """The newest LMDeploy that the table covers."""
    version: str = read_data()["newest"]
    return version


def lite_version(text: str) -> LiteVersion:
    """The behaviour of LMDeploy `text`.

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
    arguments, behaviour, datasets, architectures, companions = (
        band(data[subject], looked_up)
        for subject in ("arguments", "behaviour", "datasets", "architectures", "companions")
    )
    return LiteVersion(
        version=text,
        exact=Version(version.base_version) <= newest,
        device=arguments["device"],
        search_scale=arguments["search_scale"],
        dtype=arguments["dtype"],
        trust_remote_code=arguments["trust_remote_code"],
        data_free=behaviour["data_free"],
        auto_dtype=behaviour["auto_dtype"],
        weights=behaviour["weights"],
        wikitext_splits=tuple(behaviour["wikitext_splits"]),
        names_held_out=behaviour["names_held_out"],
        hf_form_vlm=behaviour["hf_form_vlm"],
        datasets=tuple(
            DatasetInfo(name, data["dataset_info"][name]["hub"], data["dataset_info"][name]["packs"])
            for name in datasets["names"]
        ),
        calibrate=frozenset(architectures["calibrate"]),
        data_free_only=frozenset(architectures["data_free_only"]),
        companions=tuple(companions["needs"].items()),
    )


def held_out(version: LiteVersion, architecture: str) -> tuple[str, ...]:
    """Substrings of module names that this version leaves unpacked in a language model, and says so in config.json."""
    return tuple(read_data()["held_out"].get(architecture, ())) if version.names_held_out else ()


def companions_of(architecture: str) -> tuple[tuple[str, str], ...]:
    """Packages and ranges that an architecture needs beyond what the version needs."""
    pairs: list[tuple[str, str]] = []
    for entry in read_data()["companions_of"]:
        if entry["architecture"] == architecture:
            pairs += entry["needs"].items()
    return tuple(pairs)
