"""The page in a real browser: it lays out, in light and dark, on a phone, on a desk and on A4.

Chromium is looked for by its usual names (`apt-get install chromium`); LMPLAN_WITHOUT_BROWSER leaves these tests out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from planner.fleet.file import read_fleet
from planner.fleet.placement import sweep
from planner.report import fleet_forms, html
from planner.report.dossier import Dossier

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
pytestmark = pytest.mark.skipif("LMPLAN_WITHOUT_BROWSER" in os.environ, reason="LMPLAN_WITHOUT_BROWSER is set")
# The page allows no script, so a copy without its policy is measured.
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
document.body.innerHTML = '';
document.body.id = 'result';
document.body.textContent = JSON.stringify(out);
</script></body>"""


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


def measured(folder: Path, page: str, width: int, *words: str) -> dict[str, Any]:
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", SCRIPT)
    (folder / "copy.html").write_text(copy, encoding="utf-8")
    address = (folder / "copy.html").as_uri()
    dom = chromium(folder, f"--window-size={width},1000", *words, "--dump-dom", address)
    match = re.search(r'<body id="result">(.*?)</body>', dom, re.DOTALL)
    assert match, dom[-500:]
    value: dict[str, Any] = json.loads(match[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return value


@pytest.mark.parametrize("width", [1280, 520])
def test_nothing_runs_out_of_the_page(dossier: Dossier, width: int, tmp_path: Path) -> None:
    seen = measured(tmp_path, html.render(dossier), width)
    assert seen["overflow"] <= 0, seen
    assert seen["outside"] == []
    assert seen["sections"][0] == "Decision" and seen["sections"][-1] == "Provenance"
    assert seen["height"] > 800


@pytest.mark.parametrize("width", [1280, 520])
def test_a_fleet_page_lays_out_too(width: int, tmp_path: Path) -> None:
    found = sweep(read_fleet(Path(__file__).parents[2] / "docs" / "fleet.yaml"))
    seen = measured(tmp_path, fleet_forms.render_html(found, "fleet", "2026-01-01"), width)
    assert seen["overflow"] <= 0, seen
    assert seen["outside"] == []
    assert seen["sections"] == ["Decision", "What runs where", "Every workload on every kind of GPU", "Commands"]


def test_light_and_dark_follow_the_reader(serving: Dossier, tmp_path: Path) -> None:
    page = html.render(serving)
    light = measured(tmp_path, page, 1000, "--blink-settings=preferredColorScheme=1")
    dark = measured(tmp_path, page, 1000, "--blink-settings=preferredColorScheme=0")
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
