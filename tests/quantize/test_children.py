"""Child processes: what they run in, what they may import, how they are bounded, and signals that were never ours."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from planner.errors import EnvironmentProblem
from quantize.lite import process
from quantize.system.child import Answer, Child, TimeUpError, ask, exit_words
from quantize.system.installation import find_installation
from quantize.system.interrupts import EndedBySignal, noted_signals


def python(code: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *words)


def soon(seconds: float = 20.0):
    end = time.monotonic() + seconds
    return lambda: end


def test_nothing_of_the_users_folder_is_imported(fake, tmp_path, monkeypatch):
    """Python puts the working folder first on its path, and `importlib.metadata` imports csv, json and more."""
    for name in ("csv", "json", "email", "lmdeploy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}")  # an empty entry means that folder
    script = tmp_path / "bin" / "lmdeploy"
    script.write_text(f"#!{sys.executable}\n" + (Path(__file__).with_name("fake_lmdeploy.py")).read_text())
    assert find_installation(os.environ, "auto_awq").options
    assert not (tmp_path / "ran").exists()


def test_the_folder_that_a_question_is_asked_in_is_empty_and_gone():
    answer = ask(python("import os; print(os.getcwd(), os.listdir())"), os.environ, 20)
    folder, entries = answer.text.split(maxsplit=1)
    assert entries == "[]" and not Path(folder).exists()


def test_paths_stay_those_of_the_folder_they_were_given_in(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "something.py").write_text("print('found')")
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert ask(("./python", "-c", "import something"), {"PYTHONPATH": "mine"}, 20).text == "found"


def test_an_answer_is_its_last_line_that_says_something():
    code = "import sys; print('a warning'); print('0.18.0'); print(); sys.stderr.write('more'); sys.exit(4)"
    assert ask(python(code), os.environ, 20, errors=False) == Answer(4, "a warning\n0.18.0")
    assert ask(python(code), os.environ, 20, errors=False).last_line == "0.18.0"
    assert ask(python("pass"), os.environ, 20).last_line == "no output"


def test_a_question_without_an_answer_is_given_up():
    begun = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"did not answer in 0\.5 s"):
        ask(python("import time; time.sleep(60)"), os.environ, 0.5)
    assert time.monotonic() - begun < 10


def test_every_output_puts_silence_off(tmp_path):
    """A run is ended for silence, counted from its last output and not from its start."""
    code = "import time\nfor n in range(6):\n    time.sleep(0.5); print(n, flush=True)"
    heard: list[str] = []
    result = process.run(
        python(code),
        folder=tmp_path,
        environment={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        log=tmp_path / "log",
        silence_s=2.0,
        on_line=heard.append,
    )
    assert result.exit_code == 0 and result.seconds > 2.5 and result.gpu_peak_bytes is None
    assert heard == list(result.tail) == (tmp_path / "log").read_text().split() == list("012345")


def test_output_without_a_newline_is_no_silence(tmp_path):
    code = "import sys, time\nfor n in range(6):\n    time.sleep(0.5); sys.stdout.write('.'); sys.stdout.flush()"
    child = Child(python(code), tmp_path, os.environ)
    try:
        assert list(child.lines(lambda: child.heard_at + 2.0)) == ["......"]
    finally:
        child.end()


def test_one_that_closes_its_output_and_stays_is_bounded_too(tmp_path):
    child = Child(python("import os, time; os.close(1); os.close(2); time.sleep(60)"), tmp_path, os.environ)
    try:
        assert list(child.lines(soon())) == []
        with pytest.raises(TimeUpError):
            child.wait(soon(0.3))
        with pytest.raises(EndedBySignal) as caught:
            child.wait(soon(), [signal.SIGTERM])
        assert caught.value.exit_code == 143
    finally:
        assert exit_words(child.end()) == "killed by SIGKILL"


@pytest.mark.parametrize("answers", [False, True])
def test_one_is_asked_to_end_in_the_way_it_understands(tmp_path, answers):
    code = "import sys, time; print('up', flush=True); sys.stdin.read() if len(sys.argv) > 1 else time.sleep(60)"
    child = Child(python(code, *(["listen"] if answers else [])), tmp_path, os.environ, answers=answers)
    assert next(iter(child.lines(soon()))) == "up"
    child.ask_to_end()
    assert exit_words(child.end()) == ("exit code 0" if answers else "killed by SIGTERM")


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    """`nohup lmplan quantize ...` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with noted_signals() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with noted_signals() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
