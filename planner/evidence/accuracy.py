"""Estimates beside every shipped measurement: the bands that reports print, and the table of the README.

A group is all runs with one GPU product, LMDeploy version, engine, kind of weights and tp. Its band is the largest miss
in it, rounded up to a tenth of a percent: nothing is left out and nothing is averaged away. The KV budget is counted
beside the total, because it takes a share of what is free and so hides in a total whatever else is wrong.
`python -m planner.evidence.accuracy --write` writes `planner/data/accuracy.json` and the README's table.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.data import ROOT
from planner.evidence.bands import Group, weights_format
from planner.evidence.ledger import Replayed, read_runs, replay, shipped_files
from planner.kinds import EngineName
from planner.model.inventory import inventory
from planner.model.tensors import VISION_ROLES, num_parameters

SCHEMA = "lmplan.accuracy/1"
MARKS = ("<!-- accuracy -->", "<!-- /accuracy -->")
_GB = 10**9
_FORMATS = ("16-bit", "4-bit", "fp8")
_ENGINES = EngineName.words()


def replays() -> list[Replayed]:
    """Every shipped run that lmplan can plan, beside its estimate."""
    found = (replay(run) for path in shipped_files() for run in read_runs(path))
    return [one for one in found if one is not None]


def group_runs(runs: Iterable[Replayed]) -> list[Group]:
    """The groups, 16-bit TurboMind first."""
    by_kind: dict[tuple[str, str, str, str, int], list[Replayed]] = defaultdict(list)
    for one in runs:
        settings = one.memory.deployment.settings
        kind = weights_format(one.memory.deployment)
        by_kind[one.run.product, one.run.lmdeploy, settings.engine, kind, settings.tp].append(one)
    return [
        _group(*key, by_kind[key])
        for key in sorted(by_kind, key=lambda k: (k[0], k[1], _ENGINES.index(k[2]), k[4], _FORMATS.index(k[3])))
    ]


def _group(product: str, lmdeploy: str, engine: str, kind: str, tp: int, runs: list[Replayed]) -> Group:
    totals = [abs(one.off_ratio) for one in runs if one.off_ratio is not None]
    budgets = [abs(one.kv_off_ratio) for one in runs if one.kv_off_ratio is not None]
    peaks = [abs(one.peak_off_ratio) for one in runs if one.peak_off_ratio is not None]
    return Group(
        product=product,
        lmdeploy=lmdeploy,
        engine=engine,
        format=kind,
        tp=tp,
        runs=len(runs),
        served=len(totals),
        models=len({one.run.model for one in runs}),
        total_off_ratio=_worst(totals),
        total_usual_ratio=_nine_in_ten(totals),
        kv_off_ratio=_worst(budgets),
        kv_usual_ratio=_nine_in_ten(budgets),
        peak_off_ratio=_worst(peaks) if peaks else None,
        right=sum(one.verdict_right for one in runs),
    )


def _worst(ratios: Sequence[float]) -> float:
    return round(max(ratios, default=0.0), 6)


def _nine_in_ten(ratios: Sequence[float]) -> float:
    """The smallest ratio that at least nine in ten do not exceed."""
    return round(sorted(ratios)[math.ceil(0.9 * len(ratios)) - 1], 6) if ratios else 0.0


@dataclass(frozen=True, slots=True)
class RuleOfThumb:
    """The tutorials' arithmetic: parameters x 2 bytes of weights, the ratio of the rest for KV, 1 GB for other things.

    4-bit weights are half a byte a parameter (a vision tower keeps its 16 bits), fp8 ones a byte.
    """

    total_bytes: int
    kv_bytes: int
    fits: bool


def rule_of_thumb(one: Replayed) -> RuleOfThumb:
    """What that arithmetic says of a run."""
    deployment = one.memory.deployment
    groups = inventory(deployment.spec)
    parameters = num_parameters(groups)
    # Every linear counts as quantized, embeddings too: 3.5 GB for 7 billion parameters.
    vision = num_parameters(tuple(group for group in groups if group.role in VISION_ROLES))
    bits = {"16-bit": 16, "4-bit": 4, "fp8": 8}[weights_format(deployment)]
    weights = ((parameters - vision) * bits + vision * 16) // 8 // deployment.settings.tp
    kv = int(max(deployment.free_bytes - weights, 0) * deployment.settings.cache_max_entry_count)
    total = weights + kv + _GB
    return RuleOfThumb(total, kv, total <= deployment.free_bytes)


def _rule_of_thumb_errors(runs: Iterable[Replayed]) -> tuple[list[float], list[float], int]:
    """Misses of the total and of the KV budget, and in how many runs the verdict is wrong."""
    totals, budgets, wrong = [], [], 0
    for one in runs:
        hand, run = rule_of_thumb(one), one.run
        wrong += hand.fits != (run.outcome == "serves")
        if run.used_bytes:
            totals.append(abs(hand.total_bytes / run.used_bytes - 1))
        if run.kv_budget_bytes:
            budgets.append(abs(hand.kv_bytes / run.kv_budget_bytes - 1))
    return totals, budgets, wrong


def to_json(groups: list[Group]) -> str:
    """The text of `planner/data/accuracy.json`."""
    return json.dumps({"schema": SCHEMA, "groups": [group._asdict() for group in groups]}, indent=1) + "\n"


def readme_table(runs: list[Replayed]) -> str:
    """The block of the README."""
    groups = group_runs(runs)
    models = len({one.run.model for one in runs})
    products = ", ".join(sorted({group.product for group in groups}))
    lines = [
        f"{len(runs)} runs of {models} models on {products}, planned again from their configs alone. The largest "
        "miss of each kind is the band that estimates print; nine runs in ten stay within the figure in brackets.",
        "",
        "| engine, weights, GPU | runs | models | total | KV budget | peak of loading | verdicts right |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for group in groups:
        tp = f", tp {group.tp}" if group.tp > 1 else ""
        engine = EngineName(group.engine).heading
        peak = f"{group.peak_off_ratio:.2%}" if group.peak_off_ratio is not None else ""
        lines.append(
            f"| {engine} {group.lmdeploy}, {group.format}{tp}, {group.product.removeprefix('NVIDIA ')} "
            f"| {group.runs} | {group.models} "
            f"| {group.total_off_ratio:.2%} ({group.total_usual_ratio:.2%}) "
            f"| {group.kv_off_ratio:.2%} ({group.kv_usual_ratio:.2%}) | {peak} | {group.right} of {group.runs} |"
        )
    lines += ["", *_comparison(runs)]
    return "\n".join(lines)


def _comparison(runs: list[Replayed]) -> list[str]:
    """Ours and the tutorials' arithmetic over the runs in which TurboMind told its KV budget, and all verdicts."""
    told = [
        one for one in runs if one.run.kv_budget_bytes or one.memory.deployment.settings.engine is EngineName.TURBOMIND
    ]
    ours_total = [abs(one.off_ratio) for one in told if one.off_ratio is not None]
    ours_kv = [abs(one.kv_off_ratio) for one in told if one.kv_off_ratio is not None]
    hand_total, hand_kv, hand_wrong = _rule_of_thumb_errors(told)
    ours_wrong = sum(not one.verdict_right for one in told)

    def row(name: str, total: list[float], kv: list[float], wrong: int) -> str:
        return (
            f"| {name} | {sum(total) / len(total):.2%}, {max(total):.2%} | {sum(kv) / len(kv):.2%}, {max(kv):.2%} "
            f"| {wrong} of {len(told)} |"
        )

    return [
        f"The same {len(told)} TurboMind runs by the arithmetic of tutorials (parameters x 2 bytes, half a byte for "
        "4-bit weights; the ratio of the rest is KV; 1 GB for other things). KV takes a share of what is free, so "
        "totals agree even where the model is wrong; the KV budget tells them apart.",
        "",
        "| | total: mean, worst | KV budget: mean, worst | verdicts wrong |",
        "|---|---:|---:|---:|",
        row("lmplan", ours_total, ours_kv, ours_wrong),
        row("rule of thumb", hand_total, hand_kv, hand_wrong),
    ]


def main(words: Sequence[str]) -> int:
    """Print the README's table; with ``--write`` write it and `accuracy.json`."""
    # Whatever was calibrated on this host stays out of what is shipped: this folder has no hosts.json.
    os.environ["LMPLAN_CONFIG_HOME"] = str(ROOT)
    runs = replays()
    if list(words) != ["--write"]:
        sys.stdout.write(readme_table(runs) + "\n")
        return 0
    (ROOT / "accuracy.json").write_text(to_json(group_runs(runs)), encoding="utf-8")
    readme = Path(__file__).parents[2] / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        readme.write_text(f"{before}{MARKS[0]}\n{readme_table(runs)}\n{MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
