"""What outsiders wrote is shown and never obeyed, whatever shows it."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import shlex
import subprocess
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planner.files import escape

HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1",
    "-1",
    "\t=1",
    "$(touch owned)",
    "${HOME}",
    "`id`",
    "#x onmouseover=alert(1)",
    "--tp=9",
    "a'b\"c",
    "two\nlines\r\nand more",
    "<script>alert(1)</script>",
    "| a | b |",
    "n" * 250,
    "\u202egnp.exe",
    "\u2066isolate\u2069",
    "zero\u200bwidth",
    "\ud800",
    "ünïcödé 模型",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_shown_name_is_one_printable_line(name: str) -> None:
    text = escape.shown(name)
    assert len(text.splitlines()) <= 1 and len(text) <= 200
    assert text.isprintable()


@given(st.text())
def test_visible_text_is_printable_and_keeps_letters(text: str) -> None:
    result = escape.visible(text)
    assert result.isprintable()
    assert escape.visible(result) == result
    if text.isprintable():
        assert result == text


@given(st.text())
def test_a_terminal_gets_lines_and_colours_and_nothing_else(text: str) -> None:
    result = escape.terminal(text + "\x1b[31mred\x1b[0m\n")
    assert "\x1b[31mred\x1b[0m\n" in result
    without = re.sub(r"\x1b\[[0-9;]*m", "", result)
    assert all(c in "\n\t" or c.isprintable() or unicodedata.category(c) == "Zs" for c in without)


def test_terminal_leaves_ordinary_output_alone() -> None:
    text = "█ weights 14.41\n\t模型\u00a01\u202f000\n"
    assert escape.terminal(text) == text


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text() | st.sampled_from(HOSTILE))
def test_html_holds_the_text_and_no_tag_or_attribute_of_it(text: str) -> None:
    parser = _Tags()
    parser.feed(f'<td class="{escape.html(text)}">{escape.html(text)}</td>')
    parser.close()
    assert [(tag, [name for name, _ in attrs]) for tag, attrs in parser.tags] == [("td", ["class"])]
    assert parser.text.replace("\n", "\\n").replace("\t", "\\t").isprintable() or not text.isprintable()
    if text.isprintable():
        assert parser.text == text


@given(st.text() | st.sampled_from(HOSTILE))
def test_a_csv_cell_is_no_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([escape.csv_cell(text)])
    (row,) = csv.reader(io.StringIO(out.getvalue())) if out.getvalue().strip("\r\n") else [[""]]
    cell = row[0] if row else ""
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (escape.visible(text), f"'{escape.visible(text)}")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_compose_value_comes_back_as_it_was(name: str) -> None:
    if "\ud800" in name:
        return
    value = yaml.safe_load(yaml.safe_dump({"a": escape.compose(name)}))["a"]
    # Compose replaces $$ by $ and refuses or expands what is left.
    assert re.sub(r"\$\$", "", value).count("$") == 0
    assert value.replace("$$", "$") == name


@pytest.mark.parametrize("name", [*HOSTILE, "7b", "-x", "a-", "a.b_c", "", "2024-model-", "模型"])
def test_a_dns_label_is_one(name: str) -> None:
    label = escape.dns_label(name)
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", label), label


@pytest.mark.parametrize("version", ["0.18.0", "0.18.0+cu130", "-1", ".x", "", "a b", "v" * 300])
def test_an_image_tag_is_one(version: str) -> None:
    assert re.fullmatch(r"\w[\w.-]{0,127}", escape.image_tag(version))


def test_an_argument_of_kubernetes_is_not_expanded() -> None:
    assert escape.kubernetes_argument("$(HOME)/a") == "$$(HOME)/a"


@pytest.mark.parametrize("name", [n for n in HOSTILE if "\ud800" not in n])
def test_a_shell_gets_the_name_back(name: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {shlex.quote(name)}"], capture_output=True, check=True)
    assert done.stdout.decode() == name


def test_markdown_cells_stay_cells() -> None:
    assert escape.markdown("| a `b` <c> *d* [e]\n") == r"\| a \`b\` \<c\> \*d\* \[e\]\\n"
