"""The documents say what the program does: quoted output, commands, exit codes, links.

`LMPLAN_WRITE_GOLDEN=1 pytest tests/test_docs.py` writes the quoted output and the generated tables anew.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from planner import errors, estimate
from planner.advise.throughput import speed_of
from planner.cli.main import COMMANDS, run
from planner.evidence import accuracy
from planner.evidence.ledger import shipped_files
from planner.evidence.throughput_fit import read_samples, usable
from planner.units import GIB
from tests.replays import replayed
from tests.test_imports import MODULES, ROOMS, ROOTS, room_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITE = os.environ.get("LMPLAN_WRITE_GOLDEN") == "1"
CONSOLE = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<output>(?s:.*?))^```$", re.MULTILINE)
Capture = pytest.CaptureFixture[str]


def _commands() -> str:
    rows = [f"| `lmplan {name}` | {text} |" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def _exit_codes() -> str:
    rows = {
        0: "done; `estimate`: the model fits",
        1: "a bug in lmplan, with a traceback",
        errors.UsageError.exit_code: "an option, a file or a value that cannot be used as given",
        errors.DoesNotFitError.exit_code: "the plan is sound and the model does not fit",
        errors.UnsupportedModelError.exit_code: "a model that lmplan or the engine does not know",
        errors.EnvironmentProblem.exit_code: "this machine lacks something: a network, LMDeploy, a GPU, disk",
        errors.ChildFailedError.exit_code: "LMDeploy, started by lmplan, failed",
        errors.CheckFailedError.exit_code: "a result was made and did not pass its check",
        errors.OverloadError.exit_code: "`estimate`: the model serves, and full load may end it",
        130: "interrupted",
    }
    return "\n".join(["| code | meaning |", "|---:|---|", *(f"| {code} | {text} |" for code, text in rows.items())])


def _seed_rows() -> str:
    table = json.loads((ROOT / "tests" / "data" / "a100-slices-lmdeploy-0.5.3.json").read_text())
    lines = [
        "| model, GPU, settings | seen | by hand: weights + KV + other | lmplan: weights + KV + rest | off by |",
        "|---|---:|---|---|---:|",
    ]
    for row in table["rows"]:
        keys = ("weights", "cache_max_entry_count", "quant_policy")
        plan = estimate(row["model"], row["gpu"], lmdeploy=table["lmdeploy"], **{key: row[key] for key in keys})
        sizes = {term.name: term.size_bytes / GIB for term in plan.memory.terms}
        weights, kv = sizes["weights"] + sizes.get("vision_tower", 0), sizes["kv_cache"]
        total = plan.total_bytes / GIB
        settings = f"{row['weights']}, ratio {row['cache_max_entry_count']}, {row['quant_policy'] or 16}-bit KV"
        hand = [row[f"hand_{part}_gib"] for part in ("weights", "kv", "other")]
        seen = f"{'>= ' if row.get('observed_at_least') else ''}{row['observed_gib']:.1f}"
        lines.append(
            f"| {row['model']}, {row['gpu']}, {settings} | {seen} "
            f"| {' + '.join(f'{part:g}' for part in hand)} = {sum(hand):.1f} "
            f"| {weights:.2f} + {kv:.2f} + {total - weights - kv:.2f} = {total:.2f} "
            f"| {total / row['observed_gib'] - 1:+.1%} |"
        )
    return "\n".join(lines)


def _speeds() -> str:
    lines = ["| model, batch | measured tokens/s | estimated | band | off by |", "|---|---:|---:|---:|---:|"]
    for path in shipped_files():
        for sample in read_samples(path):
            engine, tp = sample.deployment.settings.engine, sample.work.tp
            if sample.phase != "decode" or engine != "turbomind" or tp > 1 or not usable(sample):
                continue
            speed = speed_of(sample.deployment, sample.work, sample.batch, sample.context_tokens)
            if speed is None or "layers" in sample.name:
                continue
            band = speed.decode_tokens_per_s
            ends, off = f"{band.low:,.0f} to {band.high:,.0f}", band.value / sample.tokens_per_s - 1
            lines.append(f"| {sample.name} | {sample.tokens_per_s:,.0f} | {band.value:,.0f} | {ends} | {off:+.0%} |")
    return "\n".join(lines)


def _layout() -> str:
    """Every room in the order of the walk, and every module in it with the first line of its docstring."""
    lines = []
    for room in (name for names in ROOMS for name in names):
        modules = [name for name in MODULES if room_of(name)[1] == room]
        if room in ROOTS:
            modules = [room]
        for name in modules:
            path = MODULES[name].relative_to(ROOT)
            first = (ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8"))) or "").split("\n\n")[0]
            shown = path.parent if path.name == "__init__.py" else path
            indent = "" if shown == path.parent or name == room else "  "
            slash = "/" if shown == path.parent else ""
            lines.append(f"{indent}- `{shown if not indent else path.name}{slash}` {' '.join(first.split())}")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "layout": _layout,
    "speeds": _speeds,
    "commands": _commands,
    "exit-codes": _exit_codes,
    "seed-rows": _seed_rows,
    "accuracy": lambda: accuracy.readme_table([*replayed()]),
}


def _name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_quoted_output_is_real(path: Path, capsys: Capture) -> None:
    text = path.read_text(encoding="utf-8")

    def play(match: re.Match[str]) -> str:
        words = shlex.split(match["command"])
        assert words[0] == "lmplan", match["command"]
        assert run(words[1:]) in (0, 3)
        return f"```console\n$ {match['command']}\n{capsys.readouterr().out}```"

    _compare(path, text, CONSOLE.sub(play, text))


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_are_current(name: str) -> None:
    block = re.compile(rf"<!-- {name} -->\n(?s:.*?)<!-- /{name} -->")
    holders = [path for path in DOCUMENTS if block.search(path.read_text(encoding="utf-8"))]
    assert holders, f"no document has the block {name}"
    for path in holders:
        text = path.read_text(encoding="utf-8")
        fresh = f"<!-- {name} -->\n{GENERATED[name]()}\n<!-- /{name} -->"
        _compare(path, text, block.sub(lambda _, fresh=fresh: fresh, text))


def _compare(path: Path, text: str, fresh: str) -> None:
    if WRITE and text != fresh:
        path.write_text(fresh, encoding="utf-8")
        return
    assert text == fresh, f"{path.name} is behind; LMPLAN_WRITE_GOLDEN=1 writes it anew"


def test_the_readme_starts_with_the_promise_and_real_output() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ", 1)[0]
    match = CONSOLE.search(first)
    assert match is not None
    assert match["command"] == "lmplan estimate --model internlm2_5-7b --gpu a100-24g"


def test_every_exit_code_is_documented() -> None:
    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.LmplanError)
    }
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", _exit_codes(), re.MULTILINE)}
    assert codes | {0, 130} == documented


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_json_key_of_the_schema_is_shown() -> None:
    shown = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "planner" / "data" / "schemas" / "estimate-1.schema.json").read_text())
    for key in (*schema["properties"], *schema["$defs"]["settings"]["properties"]):
        assert f'"{key}"' in shown
