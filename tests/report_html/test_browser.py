"""The page in a real browser: it lays out, in light and dark, on a phone, on a desk and on A4.

Chromium is looked for by its usual names (`apt-get install chromium`); LMPLAN_WITHOUT_BROWSER leaves these tests out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from planner.fleet.file import read_fleet
from planner.fleet.placement import sweep
from planner.report import fleet_forms, html
from planner.report.dossier import Dossier
from tests.report_html.conftest import CASES, make

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
pytestmark = pytest.mark.skipif("LMPLAN_WITHOUT_BROWSER" in os.environ, reason="LMPLAN_WITHOUT_BROWSER is set")
# The page allows no script, so copies without its policy are measured, each in a frame as wide as a window.
SCRIPT = """<script>
const out = {};
out.width = innerWidth;
out.overflow = document.documentElement.scrollWidth - innerWidth;
out.dark = matchMedia('(prefers-color-scheme: dark)').matches;
out.paper = getComputedStyle(document.body).backgroundColor;
out.ink = getComputedStyle(document.body).color;
out.outside = [];
for (const chart of document.querySelectorAll('svg.chart')) {
  const box = chart.viewBox.baseVal;
  for (const text of chart.querySelectorAll('text')) {
    if (text.hasAttribute('transform')) continue;
    const b = text.getBBox();
    if (b.x < -1 || b.y < -1 || b.x + b.width > box.width + 1 || b.y + b.height > box.height + 1)
      out.outside.push(text.textContent);
  }
}
out.sections = [...document.querySelectorAll('h2')].map(h => h.textContent);
out.fills = [...new Set([...document.querySelectorAll('svg.chart rect')].map(r => r.getAttribute('fill')))];
out.height = document.body.scrollHeight;
parent.found[frameElement.dataset.place] = out;
</script></body>"""
FRAMES = """<!doctype html><body><script>var found = []; onload = () => {
document.body.innerHTML = '';
document.body.id = 'result';
document.body.textContent = JSON.stringify(found);
}</script>"""


def browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium on PATH: apt-get install chromium, or set LMPLAN_WITHOUT_BROWSER")
    return found


def chromium(folder: Path, *words: str) -> str:
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measured(folder: Path, pages: Sequence[tuple[str, int]], *words: str) -> list[dict[str, Any]]:
    """What the browser makes of each page at a width."""
    document = FRAMES
    for place, (page, width) in enumerate(pages):
        copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", SCRIPT)
        document += f'<iframe width="{width}" height="1000" data-place="{place}" srcdoc="{escape(copy)}"></iframe>'
    (folder / "copy.html").write_text(document, encoding="utf-8")
    dom = chromium(folder, "--window-size=1400,1000", *words, "--dump-dom", (folder / "copy.html").as_uri())
    match = re.search(r'<body id="result">(.*?)</body>', dom, re.DOTALL)
    assert match, dom[-500:]
    found: list[dict[str, Any]] = json.loads(unescape(match[1]))
    assert [seen["width"] for seen in found] == [width for _, width in pages]
    return found


WIDTHS = (1280, 520)


def test_nothing_runs_out_of_the_page(tmp_path: Path) -> None:
    pages = [(html.render(make(name)), width) for name in CASES for width in WIDTHS]
    for seen in measured(tmp_path, pages):
        assert seen["overflow"] <= 0, seen
        assert seen["outside"] == []
        assert seen["sections"][0] == "Decision" and seen["sections"][-1] == "Provenance"
        assert seen["height"] > 800


def test_a_fleet_page_lays_out_too(tmp_path: Path) -> None:
    fleet = sweep(read_fleet(Path(__file__).parents[2] / "docs" / "fleet.yaml"))
    page = fleet_forms.render_html(fleet, "fleet", "2026-01-01")
    for seen in measured(tmp_path, [(page, width) for width in WIDTHS]):
        assert seen["overflow"] <= 0, seen
        assert seen["outside"] == []
        assert seen["sections"] == ["Decision", "What runs where", "Every workload on every kind of GPU", "Commands"]


def test_light_and_dark_follow_the_reader(serving: Dossier, tmp_path: Path) -> None:
    pages = [(html.render(serving), 1000)]
    (light,) = measured(tmp_path, pages, "--blink-settings=preferredColorScheme=1")
    (dark,) = measured(tmp_path, pages, "--blink-settings=preferredColorScheme=0")
    assert (light["dark"], dark["dark"]) == (False, True)
    assert light["paper"] == "rgb(255, 255, 255)" and dark["paper"] == "rgb(15, 19, 24)"
    assert light["ink"] != dark["ink"]


def test_the_real_page_runs_no_script_and_draws(serving: Dossier, tmp_path: Path) -> None:
    page = html.render(serving)
    candidate = page.replace("</body>", "<script>document.title='ran'</script></body>")
    (tmp_path / "page.html").write_text(candidate, encoding="utf-8")
    dom = chromium(tmp_path, "--dump-dom", (tmp_path / "page.html").as_uri())
    assert "<title>ran</title>" not in dom
    assert dom.count('class="chart"') == 2


def test_it_prints_on_a4(serving: Dossier, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html.render(serving), encoding="utf-8")
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", (tmp_path / "page.html").as_uri())
    data = pdf.read_bytes()
    boxes = {tuple(round(float(x)) for x in box.split()) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", data)}
    # 210 x 297 mm in points; a page holds a few sections, so the whole takes two to eight.
    assert all(box[:2] == (0, 0) and abs(box[2] - 595) <= 1 and abs(box[3] - 842) <= 1 for box in boxes), boxes
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 8


def test_a_screenshot_can_be_taken(serving: Dossier, tmp_path: Path) -> None:
    """`LMPLAN_WRITE_GOLDEN=1` puts it into the documents."""
    (tmp_path / "page.html").write_text(html.render(serving), encoding="utf-8")
    picture = tmp_path / "page.png"
    words = ("--hide-scrollbars", "--window-size=1000,1500", f"--screenshot={picture}")
    chromium(tmp_path, "--blink-settings=preferredColorScheme=1", *words, (tmp_path / "page.html").as_uri())
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 50_000
    shown = Path(__file__).parents[2] / "docs" / "report.png"
    if os.environ.get("LMPLAN_WRITE_GOLDEN") == "1":
        shown.write_bytes(data)
    assert shown.read_bytes().startswith(b"\x89PNG")
