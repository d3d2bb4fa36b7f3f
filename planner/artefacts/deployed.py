"""What every artefact needs to know of a plan."""

from __future__ import annotations

from typing import NamedTuple

from planner.artefacts.launch import default_settings, model_argument, needs_remote_code
from planner.footprint import MemoryEstimate
from planner.lmdeploy.settings import Settings
from planner.lmdeploy.versions import asks_for_remote_code, cli
from planner.request import Load


class Deployed(NamedTuple):
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
        return needed and asks_for_remote_code(self.settings.lmdeploy.rules)

    @property
    def default(self) -> Settings:
        """What LMDeploy would do unasked."""
        return default_settings(self.memory)


def server_host() -> str:
    """The address that `lmdeploy serve api_server` listens at."""
    return cli().api_server_host


def server_port() -> int:
    """The port of `lmdeploy serve api_server`."""
    return cli().api_server_port
