"""What tells one config.json from another, in reports, manifests, measurements and the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a config.json's meaning: of its JSON with sorted keys, ASCII alone and Python's separators."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
