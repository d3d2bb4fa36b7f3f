"""What programs say: an engine's log, the probe's reports, a server's pages."""

from __future__ import annotations

import random
from pathlib import Path
from unittest import mock

from planner.errors import LmplanError
from quantize.lite.events import parse_line
from quantize.lite.methods import METHODS
from quantize.measure import attach, probe
from quantize.measure.measurement import Reading
from quantize.measure.seen import Seen, phase_facts
from quantize.system.lines import LineSplitter
from tests.fuzz.examples import LOG_LINES
from tests.fuzz.mutations import as_json, mutate, mutate_bytes, mutate_text


def log(rng: random.Random, folder: Path) -> int:
    """An engine's lines with the probe's reports between them."""
    facts = {"phase": "decode", "batch": 16, "tokens": 64, "seconds": 0.5, "versions": {"torch": "2.0"}}
    reports = [probe.MARK.encode() + as_json(mutate(facts, rng)) for _ in range(2)]
    raw = b"\n".join([*LOG_LINES, *reports])
    seen, splitter = Seen(), LineSplitter()
    for line in (*splitter.feed(mutate_bytes(mutate_text(raw, rng), rng)), *splitter.end()):
        said = phase_facts(line)
        if said is None:
            seen.hear(line)
        else:
            seen.phases.append(Reading(said.pop("phase"), [1], [1], said))
        for method in METHODS.values():
            parse_line(line, method.event)
    seen.log.to_object()
    seen.speed()
    seen.outcome(2**30)
    return 0


def server(rng: random.Random, folder: Path) -> int:
    """The three pages that `lmplan measure --url` asks a server for."""
    pages = {
        "/v1/models": as_json(mutate({"data": [{"id": "mine"}]}, rng)),
        "/metrics": mutate_text(b'lmdeploy:gpu_cache_usage_perc{engine="0"} 1.5e-2', rng),
        "/distserve/engine_info": as_json(mutate({"num_gpu_blocks": 100}, rng)),
    }
    spoiled = {page: (mutate_bytes(raw, rng) if rng.randrange(3) == 0 else raw) for page, raw in pages.items()}
    with mock.patch.object(attach, "_get", lambda url: spoiled[url[1:]].decode("utf-8", "replace")):
        try:
            attach.pages(":")
        except LmplanError as error:
            return error.exit_code
    return 0
