"""Files appear whole or not at all, and nothing is lost that was there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from planner.errors import EnvironmentProblem, UsageError
from planner.files import writing
from planner.files.writing import check_place, locked, write_files, write_state, write_text

ROOT = Path(__file__).parents[2]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_new_file_with_the_usual_mode(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        assert write_text(tmp_path / "a", "naïve\n") is False
    finally:
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == b"na\xc3\xafve\n"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert _names(tmp_path) == ["a"]


def test_leaves_what_is_there_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(UsageError, match="exists and is left alone") as caught:
        write_text(path, "new")
    assert path.read_text() == "old" and caught.value.hint == "--force replaces it"
    assert write_text(path, "new", force=True) is True
    assert path.read_text() == "new"


def test_never_writes_through_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="is a link"):
        write_text(link, "new")
    write_text(link, "new", force=True)
    assert target.read_text() == "precious" and link.read_text() == "new" and not link.is_symlink()
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a link"):
        write_text(dangling, "new")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_taken_in_the_meantime_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    monkeypatch.setattr(writing, "check_place", lambda *_, **__: path.write_text("theirs"))
    with pytest.raises(UsageError, match="exists"):
        write_text(path, "ours")
    assert path.read_text() == "theirs" and _names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device") as caught:
        write_text(path, "new", force=True)
    assert caught.value.exit_code == 5 and "Free disk space" in caught.value.hint
    assert path.read_text() == "old" and _names(tmp_path) == ["a"]


def test_a_real_full_disk(tmp_path: Path) -> None:
    """/dev/full takes no byte; a limit on the size of files stands for a disk that fills up half way."""
    with pytest.raises(EnvironmentProblem, match="No space left"):
        write_text(Path("/dev/full"), "x")
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path; from planner.files.writing import write_text\n"
        "from planner.errors import EnvironmentProblem\n"
        "try: write_text(Path('a'), 'x' * 5000, force=True)\n"
        "except EnvironmentProblem as error: print(error.exit_code, error.hint)\n"
    )
    (tmp_path / "a").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "5 Free disk space, or write elsewhere\n"
    assert (tmp_path / "a").read_text() == "old" and _names(tmp_path) == ["a"]


def test_streams_are_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_text(Path("-"), "out") is False
    assert capsys.readouterr().out == "out"
    write_text(Path("/dev/null"), "x")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(EnvironmentProblem, match="No such device"):
        write_text(fifo, "x")  # nobody reads
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    while not got and reader.is_alive():
        try:
            write_text(fifo, "through")
            break
        except EnvironmentProblem:
            time.sleep(0.01)
    reader.join(5)
    assert got == ["through"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "no name for a file"), ("folder", "is a folder"), ("none/a", "does not exist"), ("x" * 300, "File name too")],
)
def test_places_where_no_file_can_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name if name else Path()
    with pytest.raises((UsageError, EnvironmentProblem), match=message):
        write_text(path, "x", force=True)
    with pytest.raises((UsageError, EnvironmentProblem), match=message):
        check_place(path, force=True)
        write_text(path, "x", force=True)


def test_several_files_go_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(UsageError, match="b exists"):
        write_files(tmp_path, {"a": "1", "b": "2"})
    assert _names(tmp_path) == ["b"]
    assert write_files(tmp_path, {"a": "1", "b": "2"}, force=True) == ("b",)
    assert write_files(tmp_path / "new" / "er", {"a": "1"}) == ()


_WRITER = """
import sys, json
from pathlib import Path
from planner.files.writing import locked, write_state
path = Path(sys.argv[1])
for n in range(int(sys.argv[3])):
    with locked(path):
        entries = json.loads(path.read_text()) if path.exists() else []
        write_state(path, json.dumps([*entries, f"{sys.argv[2]}-{n}"]))
"""


def _writer(path: Path, name: str, times: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", _WRITER, str(path), name, str(times)]
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_sixteen_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    writers = [_writer(path, str(n), 5) for n in range(16)]
    assert [writer.wait(60) for writer in writers] == [0] * 16
    assert sorted(json.loads(path.read_text())) == sorted(f"{w}-{n}" for w in range(16) for n in range(5))


def test_a_kill_at_any_moment_leaves_a_whole_file_and_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(path, "[]")
    for pause in range(12):
        writer = _writer(path, str(pause), 10_000)
        time.sleep(0.08 + pause / 100)
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        before = json.loads(path.read_text())
        with locked(path):
            write_state(path, json.dumps([*before, "after"]))
        assert json.loads(path.read_text())[:-1] == before
