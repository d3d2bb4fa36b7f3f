"""The one table of settings and LMDeploy's options: as words of a command line, as a configuration in Python, and back.

A setting has one name everywhere: `session_len` of `Settings` is `session_len` of TurbomindEngineConfig and
PytorchEngineConfig (`lmdeploy/messages.py`) and ``--session-len`` of the command line (`lmdeploy/cli/utils.py`). Which
command of which version has an option, and what it takes, is in `planner/data/lmdeploy.toml`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from planner.errors import UsageError
from planner.kinds import EngineName, WeightsChoice, assert_never
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, Settings
from planner.lmdeploy.versions import LmdeployVersion
from planner.lmdeploy.words import ChatSession, ModelFormat
from planner.model.quantization import QuantMethod

Value = str | int | float
ENGINE_FLAG: Final = "--backend"
FORMAT_FLAG: Final = "--model-format"
_QUANT_POLICIES: Final = {
    "none": 0,
    "int4": 4,
    "int8": 8,
    "fp8": 16,
    "fp8_e4m3": 16,
    "fp8_e5m2": 17,
    "turbo_quant": 42,
}
"""`lmdeploy/messages.py`, QuantPolicy, and `lmdeploy/cli/utils.py`, quant_policy (0.18.0)."""


class Option(NamedTuple):
    """A setting as LMDeploy has it.

    Attributes:
        name: of the setting and of the attribute of the engine's configuration.
        value: out of the settings.
        read: back from a word of a command line; ValueError where it cannot.
        always: printed even where it is at its default: readers look for it.
        swift: whether ms-swift takes it as ``--lmdeploy_<name>`` (its command line reference, LMDeploy, 3.5).
    """

    name: str
    value: Callable[[Settings], Value]
    read: Callable[[str], Value]
    always: bool = False
    swift: bool = False

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return f"--{self.name.replace('_', '-')}"


def _quant_policy(word: str) -> int:
    name = word.lower()
    return _QUANT_POLICIES[name] if name in _QUANT_POLICIES else int(word)


def _ratio(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(word)
    return value


OPTIONS: Final = (
    Option("dtype", lambda s: s.dtype.config_name, str),
    Option("quant_policy", lambda s: s.quant_policy, _quant_policy, swift=True),
    Option("cache_max_entry_count", lambda s: s.cache_max_entry_count, _ratio, always=True, swift=True),
    Option("tp", lambda s: s.tp, int, swift=True),
    Option("session_len", lambda s: s.session_len, int, swift=True),
    Option("max_batch_size", lambda s: s.max_batch_size, int),
    Option("max_prefill_token_num", lambda s: s.max_prefill_token_num, int),
)
"""In the order in which they are printed, behind the engine and the format."""


def full_config(settings: Settings) -> dict[str, Value]:
    """Every setting as the engine's configuration calls it. The format is left to the checkpoint, which says it."""
    return {option.name: option.value(settings) for option in OPTIONS}


def config(settings: Settings, default: Settings) -> dict[str, Value]:
    """The engine's configuration without what LMDeploy does unasked, which is `default`."""
    told: dict[str, Value] = {}
    model_format = format_of(settings)
    if model_format:
        told["model_format"] = model_format
    for option in _told(settings, default):
        told[option.name] = option.value(settings)
    return told


def api_server_words(settings: Settings, default: Settings) -> list[str]:
    """The options of `lmdeploy serve api_server`: read back by `planner.lmdeploy.pasted` they are the same settings.

    Every one is there in that version: `decide` refuses settings that it could not be told.
    """
    words = [*_first_words(settings)]
    for option in _told(settings, default):
        words += [option.flag, value_word(option.value(settings))]
    return words


def chat_words(settings: Settings, default: Settings) -> list[str]:
    """The options of `lmdeploy chat`, which serves one user: those that it has in that version and heeds."""
    version = settings.lmdeploy.rules
    words = _first_words(settings)
    for option in _told(settings, default):
        ignored = option.name == "session_len" and versions.chat_rules(version).session_len is ChatSession.MODEL_MAX
        if versions.has_option(option.flag, version, "chat") and not ignored:
            words += [option.flag, value_word(option.value(settings))]
    return words


def swift_words(settings: Settings, default: Settings) -> list[str]:
    """The options of `swift deploy`."""
    words = []
    for option in _told(settings, default):
        if option.swift:
            words += [f"--lmdeploy_{option.name}", value_word(option.value(settings))]
    return words


def format_of(settings: Settings) -> str:
    """What ``--model-format`` has to say, empty for nothing."""
    if settings.quantization is None:
        return ""
    method = settings.quantization.method
    match settings.engine:
        case EngineName.TURBOMIND:
            return method.value
        case EngineName.PYTORCH:
            # It reads AWQ off the checkpoint; its model_format is for fp8 alone.
            return method.value if method is QuantMethod.FP8 else ""
        case _:
            assert_never(settings.engine)


def weights_of(model_format: ModelFormat) -> WeightsChoice:
    """What a ``--model-format`` asks of the weights."""
    match model_format:
        case ModelFormat.AWQ | ModelFormat.GPTQ:
            return WeightsChoice.W4A16
        case ModelFormat.FP8:
            return WeightsChoice.FP8
        case (
            ModelFormat.HF
            | ModelFormat.LLAMA
            | ModelFormat.COMPRESSED_TENSORS
            | ModelFormat.MXFP4
            | ModelFormat.SMOOTH_QUANT
        ):
            return WeightsChoice.AS_IS  # as the checkpoint says
        case _:
            assert_never(model_format)


def value_word(value: Value) -> str:
    """A value as a word of a command line, to the last digit; a number of blocks without a fraction."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def read_values(given: dict[str, str], lmdeploy: LmdeployVersion) -> Request:
    """The settings that options of `lmdeploy serve api_server` ask for; others than the table's are passed over.

    Args:
        given: option, such as ``--tp``, to its word.

    Raises:
        UsageError: a word that the option does not take in that version.
    """
    for flag, word in given.items():
        known = versions.choices(flag, lmdeploy.rules)
        if known and word.lower() not in known:
            raise UsageError(f"{flag} is {word!r}; LMDeploy {lmdeploy.version} takes {', '.join(known)}")
    values: dict[str, Value] = {}
    for option in OPTIONS:
        if option.flag in given:
            try:
                values[option.name] = option.read(given[option.flag])
            except ValueError:
                raise UsageError(f"{option.flag} is {given[option.flag]!r}; expected a number") from None
    return Request(
        engine=given.get(ENGINE_FLAG),
        weights=weights_of(ModelFormat(given.get(FORMAT_FLAG, ModelFormat.HF))),
        **values,  # type: ignore[arg-type]  # each `read` makes what its field of Request takes
    )


def _first_words(settings: Settings) -> list[str]:
    words = [ENGINE_FLAG, str(settings.engine)]
    model_format = format_of(settings)
    return [*words, FORMAT_FLAG, model_format] if model_format else words


def _told(settings: Settings, default: Settings) -> list[Option]:
    """What has to be said."""
    return [option for option in OPTIONS if option.always or option.value(settings) != option.value(default)]
