"""Finding LMDeploy: beside this Python, on PATH, as a module; and what is asked of it."""

from __future__ import annotations

import stat
import sys

import pytest

from planner.errors import ChildFailedError, EnvironmentProblem
from quantize.system import installation
from quantize.system.installation import find_installation


def script(folder, text, name="lmdeploy"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


ANSWERS = """#!/bin/sh
case "$1" in
  --version) echo "a warning"; echo 0.18.0;;
  *) echo "usage: lmdeploy lite auto_awq [--work-dir WORK_DIR] [--w-bits N] two--dashes";;
esac
"""


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A machine without LMDeploy."""
    monkeypatch.setattr(installation.sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    return tmp_path


def test_missing(alone):
    with pytest.raises(EnvironmentProblem, match="not installed") as caught:
        find_installation({"PATH": str(alone)}, "auto_awq")
    assert "pip install lmdeploy" in caught.value.hint


def test_on_path_and_named(alone):
    path = script(alone / "bin", ANSWERS)
    for environment in ({"PATH": str(path.parent)}, {"LMPLAN_LMDEPLOY": str(path), "PATH": "/usr/bin:/bin"}):
        found = find_installation({**environment, "PATH": f"{path.parent}:/usr/bin:/bin"}, "auto_awq")
        assert found.command == (str(path),)
        assert found.version == "0.18.0"
        assert found.options == {"--work-dir", "--w-bits"}


def test_as_a_module_of_this_python(monkeypatch, tmp_path):
    (tmp_path / "lmdeploy").mkdir()
    (tmp_path / "lmdeploy" / "__init__.py").write_text("")
    (tmp_path / "lmdeploy" / "__main__.py").write_text(
        "import sys\nprint('0.18.0' if '--version' in sys.argv else '--work-dir')\n"
    )
    # Another folder, where no lmdeploy lies beside Python; the same interpreter.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(installation.sys, "executable", str(python))
    monkeypatch.setattr(installation, "find_spec", lambda name: object())
    found = find_installation({"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}, "auto_awq")
    assert found.command[0] == str(python) and found.command[-2:] == ("-m", "lmdeploy")
    assert found.version == "0.18.0"


@pytest.mark.parametrize(
    ("head", "python"),
    [
        ("#!/opt/env/bin/python3.12\nimport re\n", "/opt/env/bin/python3.12"),
        ("#!/bin/sh\n'''exec' \"/a long/path/bin/python3\" \"$0\" \"$@\"\n' '''\n", "/a long/path/bin/python3"),
        ("#!/bin/sh\nexec something\n", None),
        ("", None),
    ],
)
def test_the_interpreter_behind_a_script(tmp_path, head, python):
    path = script(tmp_path, head)
    assert installation._interpreter((str(path),)) == python


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("#!/bin/sh\necho broken >&2\nexit 3\n", ChildFailedError, "fails (exit 3): broken"),
        ("#!/bin/sh\necho soon\n", EnvironmentProblem, "answers 'soon'"),
        ("#!/nowhere/python\n", EnvironmentProblem, "cannot run"),
    ],
)
def test_one_that_does_not_answer(alone, text, error, said):
    path = script(alone / "bin", text)
    with pytest.raises(error) as caught:
        find_installation({"LMPLAN_LMDEPLOY": str(path), "PATH": "/usr/bin:/bin"}, "auto_awq")
    assert said in caught.value.message


def test_one_that_cannot_be_run(alone):
    (alone / "file").write_text("")
    for place in (alone / "file", alone, alone / "missing"):
        with pytest.raises(EnvironmentProblem, match="cannot be run"):
            find_installation({"LMPLAN_LMDEPLOY": str(place)}, "auto_awq")
