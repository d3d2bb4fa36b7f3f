"""What commands write: whole, unasked over nothing, and said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli.main import run

Capture = pytest.CaptureFixture[str]
REPORT = ["report", "--model", "qwen3-8b", "--gpu", "a10"]
RECOMMEND = ["recommend", "--model", "qwen3-8b", "--gpu", "a10"]
FLEET = Path(__file__).parents[1] / "docs" / "fleet.yaml"


def test_a_report_is_not_written_over_another(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "plan.html"
    target.write_text("signed")
    assert run([*REPORT, "-o", str(target)]) == 2
    assert capsys.readouterr().err == (f"lmplan: {target} exists and is left alone\n  --force replaces it\n")
    assert target.read_text() == "signed"
    assert run([*REPORT, "-o", str(target), "--force"]) == 0
    assert capsys.readouterr().err == f"replaced {target}\n"
    assert target.read_text().startswith("<!doctype")


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, capsys: Capture) -> None:
    # The model is unknown too, and that would be said first if the plan were made first.
    assert run(["report", "--model", "no-such-model", "--gpu", "a10", "-o", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [REPORT, ["sweep", str(FLEET)]])
def test_a_dash_is_standard_output_and_an_empty_name_a_slip(
    words: list[str], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) in (0, 3)
    printed = capsys.readouterr().out
    assert run([*words, "-o", "-"]) in (0, 3)
    assert capsys.readouterr().out == printed
    assert run([*words, "-o", ""]) == 2
    assert "an empty name; expected a path, or - for standard output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_says_what_it_replaced(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "compose.yaml").write_text("mine")
    assert run([*RECOMMEND, "--write", str(tmp_path)]) == 2
    assert "compose.yaml exists and is left alone" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["compose.yaml"]
    assert (tmp_path / "compose.yaml").read_text() == "mine"
    assert run([*RECOMMEND, "--write", str(tmp_path), "--force"]) == 0
    assert "replaced compose.yaml" in capsys.readouterr().err
    assert run([*RECOMMEND, "--write", ""]) == 2


def test_a_link_is_not_followed(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert run([*REPORT, "-o", str(tmp_path / "link"), "--format", "json"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert (tmp_path / "target").read_text() == "precious"
