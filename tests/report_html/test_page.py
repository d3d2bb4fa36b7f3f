"""The report in its forms: whole, self-contained, legible, the same numbers in each."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest

from planner.data import ROOT
from planner.report import dossier_json, dossier_markdown, html
from planner.report.dossier import Dossier
from planner.units import GIB

SCHEMA = json.loads((ROOT / "schemas" / "report-1.schema.json").read_text())
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what is asked of them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not {"style", "desc", "title"} & set(self.open):
            self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_loads_nothing(dossier: Dossier) -> None:
    page = html.render(dossier)
    reader = read(page)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#p{i}" for i in range(5)}
    policy = next(a["content"] for t, a in reader.tags if t == "meta" and a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_ids_are_unique_and_patterns_exist(dossier: Dossier) -> None:
    page = html.render(dossier)
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_charts_say_in_words_what_they_draw(serving: Dossier) -> None:
    reader = read(html.render(serving))
    charts = [a for t, a in reader.tags if t == "svg" and a.get("class") == "chart"]
    assert len(charts) == 2
    assert all(chart["role"] == "img" for chart in charts)
    page = html.render(serving)
    assert page.count("<desc>") == 2
    # Five kinds of share differ by pattern and three lines by dash and mark, not by colour alone.
    dashes = re.findall(r'class="line l\d" stroke-dasharray="([^"]*)"', page)
    assert len(dashes) == len(set(dashes)) == 3
    for line in serving.curves:
        assert f"{line.option.quant_policy or 16}-bit KV" in page


def test_numbers_are_those_of_the_plan(serving: Dossier) -> None:
    text = " ".join(read(html.render(serving)).words)
    memory = serving.memory
    assert memory is not None
    assert f"{memory.total_bytes / GIB:.2f} of {memory.deployment.free_bytes / GIB:.2f} GiB" in text
    for term in memory.terms:
        assert term.formula in text
        assert f"{term.size_bytes / GIB:.3f}" in text
    for artefact in serving.advice.artefacts():
        assert artefact.text.splitlines()[0] in text
    assert serving.provenance.config_sha256 in text


def test_a_bar_of_what_falls_short_reaches_over_the_line_by_what_is_missing(dossier: Dossier) -> None:
    for bar in dossier.bars:
        candidate = bar.evaluation.candidate
        assert candidate is not None
        if candidate.serves:
            assert bar.total_bytes <= bar.free_bytes
        elif "short" in candidate.lack:
            assert bar.total_bytes > bar.free_bytes
            assert bar.total_bytes >= bar.free_bytes + candidate.short_bytes


def test_what_is_assumed_is_said(dossier: Dossier) -> None:
    text = " ".join(read(html.render(dossier)).words)
    for term in dossier.assumed:
        assert term.evidence.detail in text
    chosen = dossier.advice.decision.chosen
    if chosen is not None and chosen.speed is not None and "assumed" in chosen.speed.evidence:
        assert chosen.speed.evidence in text


def test_measurements_stand_beside_estimates(measured_plan: Dossier) -> None:
    assert measured_plan.measured
    text = " ".join(read(html.render(measured_plan)).words)
    first = next(r for r in measured_plan.measured if r.run.used_bytes and r.memory.fits)
    assert f"{first.run.used_bytes / GIB:.2f}" in text
    assert f"{first.memory.total_bytes / GIB:.2f}" in text


def test_names_cannot_break_out_of_the_page(serving: Dossier) -> None:
    cell = html.table(["<b>"], [["<script>alert(1)</script>", "a & b"]])
    assert "<script>" not in cell and "&lt;script&gt;" in cell and "a &amp; b" in cell
    assert "<title>&lt;x&gt;</title>" in html.page("<x>", "")


def test_json_follows_its_schema(dossier: Dossier) -> None:
    value = json.loads(dossier_json.render(dossier))
    jsonschema.validate(value, SCHEMA)
    chosen = value["decision"]["chosen"]
    if chosen:
        assert sum(term["bytes"] for term in value["terms"]) == chosen["total_bytes"]


def test_markdown_has_every_part(serving: Dossier) -> None:
    text = dossier_markdown.render(serving)
    for heading in (
        "## ",
        "### Memory of the chosen plan",
        "### Concurrent sequences",
        "### Assumed",
        "### Provenance",
    ):
        assert heading in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_the_date_is_that_of_source_date_epoch(serving: Dossier) -> None:
    from planner.report.dossier import gather

    assert gather(serving.advice, []).provenance.date == "2026-01-01"


def _variables(css: str, start: str) -> dict[str, str]:
    block = css[css.index(start) :]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block[: block.index("}")]))


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "start", [":root {", "@media (prefers-color-scheme: dark) {\n  :root {", "@media print {\n  :root {"]
)
def test_text_is_legible_in_every_scheme(start: str) -> None:
    css = (ROOT / "report.css").read_text()
    colours = _variables(css, ":root {") | _variables(css, start)
    for name in ("ink", "soft", "accent", "good", "bad", "l0", "l1", "l2"):
        assert _contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "soft"):
        assert _contrast(colours[name], colours["tint"]) >= 4.5, name
    for i in range(5):
        assert _contrast(colours["on"], colours[f"s{i}"]) >= 4.5, i
