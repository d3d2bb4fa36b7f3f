"""What a version of LMDeploy does: the table in `planner/data/lmdeploy.toml`, read for one version."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from packaging.version import InvalidVersion, Version

from planner.errors import UsageError
from planner.files.escape import shown
from planner.kinds import EngineName, assert_never
from planner.lmdeploy.rules import (
    Architecture,
    Architectures,
    ChatRules,
    Choices,
    Cli,
    CliOption,
    DefaultBatch,
    PytorchArchitectures,
    PytorchRules,
    TrustRemoteCode,
    TurbomindRules,
)
from planner.lmdeploy.table import Table, band, holds, shipped, span
from planner.lmdeploy.words import RemoteCode

__all__ = ["LmdeployVersion", "band", "holds"]

_MAX_CHARACTERS: Final = 100
"""A release with a date and a commit takes 40."""
TURBOMIND: Final = tuple(f"turbomind.{part}" for part in ("kv_budget", "kv_layout", "workspace", "sharding", "support"))
PYTORCH: Final = tuple(f"pytorch.{part}" for part in ("kv_budget", "kv_layout", "weights", "cuda_graphs"))


class LmdeployVersion(NamedTuple):
    """A version in hand and the version whose rules stand in for it.

    `rules` differs from `version` for a version newer than every known one, and `note` then says so.
    """

    version: str
    rules: Version
    note: str = ""


def newest() -> str:
    """The newest version whose rules are known."""
    value: str = shipped().at("newest")
    return value


def resolve(text: str | None) -> LmdeployVersion:
    """A ``--lmdeploy`` value; None is the newest known version.

    Raises:
        UsageError: not a version, or older than the oldest known one.
    """
    known_newest, oldest = Version(newest()), Version(shipped().at("oldest"))
    if text is None:
        return LmdeployVersion(str(known_newest), known_newest)
    try:
        version = Version(text)
    except (InvalidVersion, ValueError):  # Python makes no number of thousands of digits
        raise UsageError(f"--lmdeploy '{shown(text)}' is not a version", f"Such as {known_newest}") from None
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(f"--lmdeploy '{shown(text)}' is longer than any version", f"Such as {known_newest}")
    if version < oldest:
        raise UsageError(f"LMDeploy {version} is older than what lmplan knows", f"Known: {oldest} to {known_newest}")
    if version > known_newest and version.release[:3] != known_newest.release[:3]:
        note = f"LMDeploy {version} is newer than what lmplan knows; the rules of {known_newest} are used"
        return LmdeployVersion(str(version), known_newest, note)
    # A pre-release counts as its release: its rules were written for it.
    return LmdeployVersion(str(version), Version(".".join(str(part) for part in version.release)))


@cache
def turbomind_rules(version: Version) -> TurbomindRules:
    """TurboMind's rules in `version`."""
    return shipped().rules(TurbomindRules, TURBOMIND, version)


@cache
def pytorch_rules(version: Version) -> PytorchRules:
    """The PyTorch engine's rules in `version`.

    Raises:
        UsageError: they are not known.
    """
    return shipped().rules(PytorchRules, PYTORCH, version)


@cache
def architectures(engine: EngineName, version: Version) -> tuple[str, ...]:
    """The architectures that an engine takes in `version`; empty where that is not known."""
    match engine:
        case EngineName.TURBOMIND:
            return turbomind_architectures(version)
        case EngineName.PYTORCH:
            return pytorch_architectures(version)
        case _:
            assert_never(engine)


@cache
def turbomind_architectures(version: Version) -> tuple[str, ...]:
    """The architectures that TurboMind takes in `version`."""
    entries = shipped().one(Architectures, "turbomind.architectures").list
    return tuple(entry.name for entry in entries if holds(entry.versions, version))


@cache
def takes(engine: EngineName, architecture: str, version: Version) -> bool:
    """Whether an engine takes an architecture in `version`; False where that is not known."""
    match engine:
        case EngineName.TURBOMIND:
            entry = _turbomind_architecture(architecture)
            return entry is not None and holds(entry.versions, version)
        case EngineName.PYTORCH:
            return architecture in pytorch_architectures(version)
        case _:
            assert_never(engine)


@cache
def native_vision(architecture: str, version: Version) -> bool:
    """Whether TurboMind itself runs the vision tower of `architecture` in `version`."""
    entry = _turbomind_architecture(architecture)
    return entry is not None and bool(entry.native_vision) and holds(entry.native_vision, version)


@cache
def _turbomind_architecture(name: str) -> Architecture | None:
    path = "turbomind.architectures.list"
    entry = shipped().named(path, name)
    return shipped().one(Architecture, path, entry) if entry is not None else None


@cache
def pytorch_architectures(version: Version) -> tuple[str, ...]:
    """The architectures that the PyTorch engine takes in `version`; empty where it is not known."""
    section = shipped().one(PytorchArchitectures, "pytorch.architectures")
    return section.list if holds(section.versions, version) else ()


@cache
def when_served(architecture: str) -> str:
    """In which versions LMDeploy takes an architecture, for people; empty where none that is known does."""
    parts = []
    entry = _turbomind_architecture(architecture)
    if entry is not None:
        spans = " and ".join(_in_words(part) for part in entry.versions)
        parts.append(f"{EngineName.TURBOMIND.heading} takes it {spans}")
    if architecture in shipped().one(PytorchArchitectures, "pytorch.architectures").list:
        parts.append(f"{EngineName.PYTORCH.in_words} in {newest()}")
    return ", ".join(parts)


def _in_words(part: str) -> str:
    low, high = span(part)
    return f"from {low} on" if high is None else f"from {low} to before {high}"


@cache
def default_max_batch_size(version: Version, product: str) -> int:
    """LMDeploy's max_batch_size on a GPU of that product name when none is given."""
    default = shipped().rules(DefaultBatch, ("max_batch_size",), version)
    for key, value in default.by_name.items():
        if key in product.lower():
            return value
    return default.default


@cache
def chat_rules(version: Version) -> ChatRules:
    """What `lmdeploy chat` of `version` runs with."""
    return shipped().rules(ChatRules, ("chat",), version)


@cache
def cli() -> Cli:
    """What the command line of every version has in common."""
    return shipped().one(Cli, "cli.common")


@cache
def find_option(name: str) -> CliOption | None:
    """What is known of an option of `lmdeploy serve api_server` or `lmdeploy chat`; None for another's."""
    entry = shipped().named("cli.options", name)
    return shipped().one(CliOption, "cli.options", entry) if entry is not None else None


def has_option(name: str, version: Version, command: str = "api_server") -> bool:
    """Whether `lmdeploy serve api_server` (or ``chat``) of `version` knows the option."""
    option = find_option(name)
    return option is not None and holds(option.api_server if command == "api_server" else option.chat, version)


def since(name: str) -> str:
    """The first version of `lmdeploy serve api_server` that knows an option which some version knows."""
    option = find_option(name)
    assert option is not None, name
    return str(span(option.api_server[0])[0])


def spelled(typed: str, version: Version) -> str:
    """The name of an option that was typed as the parser of `version` takes it."""
    if not holds(cli().flexible_spelling, version):
        return typed
    return typed.partition(".")[0].replace("_", "-")


def options(version: Version) -> tuple[str, ...]:
    """The options that `lmdeploy serve api_server` of `version` knows."""
    names = (entry["name"] for entry in shipped().at("cli.options"))
    return tuple(name for name in names if has_option(name, version))


@cache
def choices(name: str, version: Version) -> tuple[str, ...]:
    """The words that an option takes in `version`; empty where it takes others than a fixed set."""
    if name not in shipped().at("cli.choices") or not has_option(name, version):
        return ()
    return shipped().rules(Choices, (f"cli.choices.{name}",), version).values


@cache
def asks_for_remote_code(version: Version) -> bool:
    """Whether a model's own code runs only where ``--trust-remote-code`` is given."""
    rules = shipped().rules(TrustRemoteCode, ("cli.trust_remote_code",), version)
    return rules.behaviour is RemoteCode.OPT_IN


def check(table: Table) -> None:
    """Every section of the table, read or not by then.

    Raises:
        TableError: a section, band, key or value that cannot be used.
    """
    table.check_values(TurbomindRules, TURBOMIND)
    table.check_values(PytorchRules, PYTORCH)
    table.check_values(DefaultBatch, ("max_batch_size",))
    table.check_values(ChatRules, ("chat",))
    table.check_values(TrustRemoteCode, ("cli.trust_remote_code",))
    for name in table.at("cli.choices"):
        table.check_values(Choices, (f"cli.choices.{name}",))
    table.one(Architectures, "turbomind.architectures")
    table.one(PytorchArchitectures, "pytorch.architectures")
    table.one(Cli, "cli.common")
    for entry in table.at("cli.options"):
        table.one(CliOption, "cli.options", entry)
    read = {*TURBOMIND, *PYTORCH, "turbomind.architectures", "pytorch.architectures"}
    read |= {f"cli.{part}" for part in ("common", "options", "choices", "trust_remote_code")}
    read |= {"schema", "oldest", "newest", "max_batch_size", "chat"}
    table.check_sections(read)
