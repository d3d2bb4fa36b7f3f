"""One hash of a config.json, in whatever it is written down."""

from __future__ import annotations

import json

from planner.api.advice import advise
from planner.model.fingerprint import config_sha256
from planner.report.dossier import gather
from quantize.checkpoint.make import known_config


def test_report_and_manifest_agree(fake, lmplan, tmp_path):
    assert lmplan("quantize", "tiny-llama").returncode == 0
    manifest = json.loads((tmp_path / "tiny-llama-w4a16" / "lmplan.json").read_text())
    (tmp_path / "model").mkdir()
    # Another order of keys, other spaces: the same config.
    config = dict(reversed(known_config("tiny-llama").items()))
    (tmp_path / "model" / "config.json").write_text(json.dumps(config, indent=7))
    advice = advise(str(tmp_path / "model"), ("h200",))
    report = gather(advice, []).provenance.config_sha256
    assert report == manifest["model"]["config_sha256"] == config_sha256(config)
