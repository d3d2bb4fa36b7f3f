"""What every artefact needs to know of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from planner.artefacts.launch import model_argument, needs_remote_code
from planner.data import read_toml
from planner.footprint import MemoryEstimate
from planner.lmdeploy.engines import default_session_len_extra, engine_facts
from planner.lmdeploy.settings import DEFAULT_MAX_PREFILL_TOKEN_NUM, Settings
from planner.lmdeploy.versions import default_max_batch_size, has_option
from planner.model.spec import QuantMethod
from planner.request import Load


@dataclass(frozen=True, slots=True)
class Deployed:
    """A plan to be started.

    Attributes:
        memory: its estimate.
        model: what the 16-bit or published checkpoint is called: a folder or a Hugging Face id.
        load: what it is for.
    """

    memory: MemoryEstimate
    model: str
    load: Load

    @property
    def settings(self) -> Settings:
        """The plan's settings."""
        return self.memory.deployment.settings

    @property
    def served(self) -> str:
        """The folder or id that is served, which quantizing may have to make first."""
        return model_argument(self.model, self.settings, self.memory.deployment.spec.quantization is not None)

    @property
    def is_folder(self) -> bool:
        """Whether a folder is served and not a Hugging Face id."""
        return self.served.startswith((".", "/", "~"))

    @property
    def name(self) -> str:
        """A name for services and containers: lower case letters, digits and dashes."""
        stem = self.served.rstrip("/").rpartition("/")[2].lower()
        return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in stem).split())[:50] or "model"

    @property
    def remote_code(self) -> bool:
        """Whether LMDeploy has to be told that the repository's own code may run."""
        spec = self.memory.deployment.spec
        needed = needs_remote_code(spec.architecture, spec.text.architecture)
        return needed and has_option("--trust-remote-code", self.settings.lmdeploy.rules)

    def engine_config(self) -> dict[str, str | int | float]:
        """The engine's configuration without what is at its default, ratio and quant_policy aside."""
        settings, deployment = self.settings, self.memory.deployment
        config: dict[str, str | int | float] = {}
        if settings.quantization is not None and (
            engine_facts(settings.engine).names_every_format or settings.quantization.method is QuantMethod.FP8
        ):
            config["model_format"] = settings.quantization.method.value
        if settings.tp > 1:
            config["tp"] = settings.tp
        if settings.session_len != default_session_len(self.memory):
            config["session_len"] = settings.session_len
        if settings.max_batch_size != default_max_batch_size(settings.lmdeploy.rules, deployment.gpu.product):
            config["max_batch_size"] = settings.max_batch_size
        config["cache_max_entry_count"] = settings.cache_max_entry_count
        config["quant_policy"] = settings.quant_policy
        if settings.max_prefill_token_num != DEFAULT_MAX_PREFILL_TOKEN_NUM:
            config["max_prefill_token_num"] = settings.max_prefill_token_num
        return config


def default_session_len(memory: MemoryEstimate) -> int:
    """LMDeploy's session_len for the model when none is given."""
    settings = memory.deployment.settings
    extra = default_session_len_extra(settings.engine, settings.lmdeploy.rules)
    return memory.deployment.spec.text.max_position_embeddings + extra


def server_port() -> int:
    """The port of `lmdeploy serve api_server`."""
    return int(read_toml("lmdeploy.toml")["cli"]["api_server_port"])
