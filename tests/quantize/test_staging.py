"""What is cleaned and what is not: the mark goes last, links are never followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from planner.errors import EnvironmentProblem
from quantize.run import staging
from quantize.run.staging import clean_leftover, is_free, open_staging, staging_path

MARK = "LMPLAN_STAGING"


def left_behind(output: Path) -> Path:
    """The staging folder of a run that was killed."""
    with open_staging(output) as one:
        for folder in (one.work, one.caches, one.result):
            (folder / "half").write_text("done")
    return one.root


def test_a_clean_up_that_is_killed_leaves_a_folder_that_is_recognised(tmp_path, monkeypatch):
    """Killed at any of its steps, when the files of a folder are gone and its folders are not."""
    removed = shutil.rmtree
    for steps in range(7):
        root = left_behind(tmp_path / "out")
        left = steps

        def remove(path: Path, **options: object) -> None:
            nonlocal left
            if not left:
                for file in path.iterdir():
                    if file.is_file():
                        file.unlink()
                raise KeyboardInterrupt
            left -= 1
            removed(path)

        monkeypatch.setattr(staging.shutil, "rmtree", remove)
        with pytest.raises(KeyboardInterrupt):
            clean_leftover(tmp_path / "out")
        monkeypatch.setattr(staging.shutil, "rmtree", removed)
        assert (root / MARK).exists() or not any(root.iterdir()), steps
        with open_staging(tmp_path / "out") as again:
            again.remove()
        assert not root.exists()


def test_the_mark_outlives_the_rest(tmp_path):
    root = left_behind(tmp_path / "out")
    staging._clean(root)
    assert [path.name for path in root.iterdir()] == [MARK]


def test_what_a_link_leads_to_is_never_cleaned(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    root = left_behind(tmp_path / "out")
    (root / "link").symlink_to(foreign)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    with open_staging(tmp_path / "out") as again:
        assert {path.name for path in root.iterdir()} == {MARK, "work", "caches", "result"}
        again.remove()
    assert not root.exists() and (foreign / "mine.txt").read_text() == "mine"


def test_a_link_to_nothing_is_no_free_name(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert not is_free(tmp_path / "out")
    assert is_free(tmp_path / "nowhere")


def test_a_staging_name_that_is_a_link_is_not_followed_into(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").write_text("mine")
    staging_path(tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EnvironmentProblem), open_staging(tmp_path / "out"):
        pass
