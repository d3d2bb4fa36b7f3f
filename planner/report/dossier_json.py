"""A report as one JSON object; `planner/data/schemas/report-1.schema.json` describes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from planner.report import decision_json
from planner.report.dossier import SHARES, Dossier
from planner.report.jsonform import term_object

SCHEMA = "lmplan.report/1"


def render(dossier: Dossier) -> str:
    """The object as text, indented, with a newline at the end."""
    return json.dumps(to_object(dossier), indent=2) + "\n"


def to_object(dossier: Dossier) -> dict[str, Any]:
    """The object: the decision as `lmplan recommend` prints it, and everything that the page shows besides."""
    memory = dossier.memory
    made = asdict(dossier.provenance)
    return {
        "schema": SCHEMA,
        "provenance": {**made, "gpu_sources": list(made["gpu_sources"])},
        "decision": decision_json.to_object(dossier.advice),
        "terms": [term_object(term) for term in memory.terms] if memory else [],
        "options": [
            {
                "gpu": bar.evaluation.offer.gpu.name,
                "num_gpus": bar.evaluation.option.tp,
                "weights": bar.evaluation.option.weights,
                "quant_policy": bar.evaluation.option.quant_policy,
                "free_bytes": bar.free_bytes,
                "bytes": dict(zip(SHARES, bar.share_bytes, strict=True)),
            }
            for bar in dossier.bars
        ],
        "capacity": [
            {
                "quant_policy": curve.option.quant_policy,
                "cache_max_entry_count": curve.ratio,
                "points": [{"context_tokens": c, "sequences": n} for c, n in curve.points],
            }
            for curve in dossier.curves
        ],
        "measured": [
            {
                "gpu": replayed.run.product,
                "lmdeploy": replayed.run.lmdeploy,
                "settings": replayed.run.settings,
                "free_before_bytes": replayed.run.free_before_bytes,
                "outcome": replayed.run.outcome,
                "measured_bytes": replayed.run.used_bytes,
                "estimated_bytes": replayed.memory.total_bytes if replayed.memory.fits else None,
            }
            for replayed in dossier.measured
        ],
    }
