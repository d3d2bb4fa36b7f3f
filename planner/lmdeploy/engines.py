"""LMDeploy's engines by name, and what lmplan asks of one apart from its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from packaging.version import Version

from planner.errors import assert_never
from planner.lmdeploy import versions

EngineName = Literal["turbomind", "pytorch"]
"""As ``--backend`` has it; LMDeploy takes the first that serves a model (`lmdeploy/archs.py`)."""
ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine.

    Attributes:
        title, spoken: its name for people, alone and in a sentence.
        config_class: its configuration in LMDeploy's Python.
        names_every_format: ``model_format`` says how any quantized checkpoint is stored; else it means fp8 alone, and
            the rest is read off the checkpoint.
        quantizes_to_fp8: 16-bit weights become fp8 while they are loaded (`lmdeploy/pytorch/nn/linear/blocked_fp8.py`,
            0.18.0).
        tells_budget: its log says how much memory the KV cache gets, and not the number of blocks alone.
    """

    title: str
    spoken: str
    config_class: str
    names_every_format: bool
    quantizes_to_fp8: bool
    tells_budget: bool


def engine_facts(engine: EngineName) -> EngineFacts:
    """What is so in every version."""
    match engine:
        case "turbomind":
            return EngineFacts(
                title="TurboMind",
                spoken="TurboMind",
                config_class="TurbomindEngineConfig",
                names_every_format=True,
                quantizes_to_fp8=False,
                tells_budget=True,
            )
        case "pytorch":
            return EngineFacts(
                title="PyTorch engine",
                spoken="the PyTorch engine",
                config_class="PytorchEngineConfig",
                names_every_format=False,
                quantizes_to_fp8=True,
                tells_budget=False,
            )
        case _:
            assert_never(engine)


def architectures(engine: EngineName, version: Version) -> tuple[str, ...]:
    """The architectures that an engine takes in a version; empty where that is not known."""
    match engine:
        case "turbomind":
            return versions.turbomind_architectures(version)
        case "pytorch":
            return versions.pytorch_architectures(version)
        case _:
            assert_never(engine)


def default_session_len_extra(engine: EngineName, version: Version) -> int:
    """What the engine adds to the model's own length where no session length is given."""
    match engine:
        case "turbomind":
            return versions.turbomind_rules(version).default_session_len_extra
        case "pytorch":
            return 0
        case _:
            assert_never(engine)


def runs_vision(engine: EngineName, architecture: str, version: Version) -> bool:
    """Whether the engine's own kernels run the vision tower of an architecture, and not PyTorch."""
    match engine:
        case "turbomind":
            return versions.native_vision(architecture, version)
        case "pytorch":
            return False
        case _:
            assert_never(engine)


def forces_fp16(engine: EngineName, version: Version) -> bool:
    """Whether 4-bit weights are computed in fp16 whatever the model's type."""
    match engine:
        case "turbomind":
            return versions.turbomind_rules(version).int4_dtype == "float16"
        case "pytorch":
            return True
        case _:
            assert_never(engine)
