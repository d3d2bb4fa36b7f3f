"""What a version of LMDeploy does: the table in `planner/data/lmdeploy.toml`, read for one version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from planner.data import read_toml
from planner.errors import UsageError


@dataclass(frozen=True, slots=True)
class LmdeployVersion:
    """A version in hand and the version whose rules stand in for it.

    `rules` differs from `version` for a version newer than every known one, and `note` then says so.
    """

    version: str
    rules: Version
    note: str = ""


def newest() -> str:
    """The newest version whose rules are known."""
    value: str = read_toml("lmdeploy.toml")["newest"]
    return value


def resolve(text: str | None) -> LmdeployVersion:
    """A ``--lmdeploy`` value; None is the newest known version.

    Raises:
        UsageError: not a version, or older than the oldest known one.
    """
    table = read_toml("lmdeploy.toml")
    known_newest, oldest = Version(table["newest"]), Version(table["oldest"])
    if text is None:
        return LmdeployVersion(str(known_newest), known_newest)
    try:
        version = Version(text)
    except InvalidVersion:
        raise UsageError(f"--lmdeploy {text!r} is not a version", f"Such as {known_newest}") from None
    if version < oldest:
        raise UsageError(f"LMDeploy {version} is older than what lmplan knows", f"Known: {oldest} to {known_newest}")
    if version > known_newest and version.release[:3] != known_newest.release[:3]:
        note = f"LMDeploy {version} is newer than what lmplan knows; the rules of {known_newest} are used"
        return LmdeployVersion(str(version), known_newest, note)
    # A pre-release counts as its release: its rules were written for it.
    return LmdeployVersion(str(version), Version(".".join(str(part) for part in version.release)))


@cache
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


def holds(specifiers: str | list[str], version: Version) -> bool:
    """Whether any of the specifiers holds the version."""
    each = [specifiers] if isinstance(specifiers, str) else specifiers
    return any(version in _specifiers(text) for text in each)


def band(bands: list[dict[str, Any]], version: Version) -> dict[str, Any]:
    """The one entry of an array of tables whose ``versions`` holds `version`.

    Raises:
        UsageError: none does; only the PyTorch engine's part has such gaps.
    """
    for entry in bands:
        if holds(entry["versions"], version):
            return entry
    raise UsageError(
        f"lmplan does not know the rules of this engine in LMDeploy {version}",
        "The PyTorch engine is planned for 0.18.0; TurboMind for 0.4.0 and newer",
    )


@dataclass(frozen=True, slots=True)
class TurbomindRules:
    """What decides TurboMind's memory in one version; the names are those of the table, which explains them."""

    free_sampled: str
    kv_allocator: str
    block_tokens: int
    default_cache_max_entry_count: float
    ratio_range: str
    shortens_session_len: bool
    slab_fill: float
    slab_max_bytes: int
    quant_policies: tuple[int, ...]
    kv_replication: str
    kv_heads_in_block: str
    gemm_workspace_bytes: int
    cublas_workspace_bytes: int
    attention_workspace: str
    forward_tokens: str
    hidden_tokens: str
    warm_up: str
    default_session_len_extra: int
    batch_buffers: str
    fused_silu: str
    embedding_sharded: bool
    lm_head_sharded: bool
    vocab_multiple: int
    intermediate_padding: str
    dense_group: int
    head_dims: tuple[int, ...]
    head_dims_sm80: tuple[int, ...]
    kv_int4_not_for: tuple[int, ...]
    formats: tuple[str, ...]
    int4_group_sizes: tuple[int, ...]
    min_sm_w4a16: int
    min_sm_fp8: int
    fp8_native_sm: int
    int4_dtype: str


@cache
def turbomind_rules(version: Version) -> TurbomindRules:
    """TurboMind's rules in `version`."""
    table = read_toml("lmdeploy.toml")["turbomind"]
    facts: dict[str, Any] = {}
    for subject in ("kv_budget", "kv_layout", "workspace", "sharding", "support"):
        facts |= band(table[subject], version)
    # Absent keys are absent features: no slabs before 0.15, no fp8 before 0.9, no 16-bit padding group before 0.6.
    facts = {"slab_fill": 0.0, "slab_max_bytes": 0, "min_sm_fp8": 0, "fp8_native_sm": 0, "dense_group": 1} | facts
    names = TurbomindRules.__dataclass_fields__
    return TurbomindRules(**{name: _frozen(facts[name]) for name in names})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@cache
def turbomind_architectures(version: Version) -> tuple[str, ...]:
    """The architectures that TurboMind takes in `version`."""
    entries = read_toml("lmdeploy.toml")["turbomind"]["architectures"]["list"]
    return tuple(entry["name"] for entry in entries if holds(entry["versions"], version))


@cache
def native_vision(architecture: str, version: Version) -> bool:
    """Whether TurboMind itself runs the vision tower of `architecture` in `version`."""
    for entry in read_toml("lmdeploy.toml")["turbomind"]["architectures"]["list"]:
        if entry["name"] == architecture and "native_vision" in entry:
            return holds(entry["native_vision"], version)
    return False


@cache
def pytorch_architectures(version: Version) -> tuple[str, ...]:
    """The architectures that the PyTorch engine takes in `version`; empty where it is not known."""
    section = read_toml("lmdeploy.toml")["pytorch"]["architectures"]
    return tuple(section["list"]) if holds(section["versions"], version) else ()


@cache
def default_max_batch_size(version: Version, product: str) -> int:
    """LMDeploy's max_batch_size on a GPU of that product name when none is given."""
    entry = band(read_toml("lmdeploy.toml")["max_batch_size"], version)
    for key, value in entry["by_name"].items():
        if key in product.lower():
            return int(value)
    return int(entry["default"])


def has_option(option: str, version: Version, command: str = "api_server") -> bool:
    """Whether `lmdeploy serve api_server` (or ``chat``) of `version` knows the option."""
    for entry in read_toml("lmdeploy.toml")["cli"]["options"]:
        if entry["name"] == option:
            return bool(entry[command]) and holds(entry[command], version)
    return False
