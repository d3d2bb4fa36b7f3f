"""What starts a plan: commands, configurations and manifests, each valid for the plan's LMDeploy version."""

from __future__ import annotations

from planner.artefacts.bundle import Artefact as Artefact
from planner.artefacts.bundle import artefacts as artefacts
from planner.artefacts.deployed import Deployed as Deployed
from planner.artefacts.quantize import needs_published as needs_published
