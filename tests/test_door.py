"""`import lmplan`: what is public, and what is said where another distribution's `planner` stands in the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lmplan
import planner
from planner import errors

ROOT = Path(lmplan.__file__).parents[1]
COMMAND = "import sys; sys.argv[0] = 'lmplan'; from lmplan import main; main()"


def test_every_public_name_is_there() -> None:
    assert {name for name in lmplan.__all__ if getattr(lmplan, name, None) is None} == set()
    assert lmplan.estimate is planner.estimate
    assert lmplan.__version__ == planner.__version__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lmplan.__getattr__("nothing")


def test_every_error_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.LmplanError)
    }
    assert defined <= set(lmplan.__all__)


def test_importing_it_loads_nothing() -> None:
    code = "import sys, lmplan; print([name for name in sys.modules if name.partition('.')[0] == 'planner'])"
    assert _python(code).stdout.strip() == "[]"


def test_an_answer() -> None:
    assert lmplan.estimate("internlm2_5-7b", "a100-24g").verdict == "serves"
    advice = lmplan.recommend("internlm2_5-7b", ("a100-24g",))
    assert isinstance(advice, lmplan.Advice)
    with pytest.raises(lmplan.LmplanError, match="unknown GPU"):
        lmplan.estimate("internlm2_5-7b", "no-such-card")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with another distribution's `planner`, which must not be run."""
    package = tmp_path / "site" / "planner"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the other planner was imported')\n")
    return package


def _python(code: str, *arguments: str, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *arguments]
    # With -c, Python looks in the working directory first.
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=sys.prefix, check=False)


def test_the_command_names_what_shadows(other: Path) -> None:
    done = _python(COMMAND, "models", path=f"{other.parent}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stdout) == (errors.EnvironmentProblem.exit_code, "")
    assert done.stderr == (
        f"lmplan: another package called planner, {other}, hides lmplan's own\n"
        f"  Take {other.parent} out of PYTHONPATH\n"
    )


def test_importing_a_name_names_what_shadows(other: Path) -> None:
    code = "try:\n    from lmplan import estimate\nexcept ImportError as error:\n    print(error)"
    done = _python(code, path=f"{other.parent}{os.pathsep}{ROOT}")
    assert done.stdout == (
        f"another package called planner, {other}, hides lmplan's own; Take {other.parent} out of PYTHONPATH\n"
    )


def test_without_pythonpath_an_environment_of_its_own_helps(other: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(other.parent)!r}); {COMMAND}"
    done = _python(code, "models")
    assert done.returncode == 5
    assert f"{other}, hides" in done.stderr
    assert "pipx install lmplan" in done.stderr


def test_a_planner_that_overwrote_ours(tmp_path: Path) -> None:
    """Two distributions in one site-packages: the later one's __init__.py, the earlier one's modules."""
    (tmp_path / "lmplan").mkdir()
    (tmp_path / "lmplan" / "__init__.py").write_bytes((ROOT / "lmplan" / "__init__.py").read_bytes())
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner" / "__init__.py").write_text('"""Not ours."""\n')
    done = _python(COMMAND, "models", path=str(tmp_path))
    assert done.returncode == 5
    assert done.stderr.startswith(
        f"lmplan: another package called planner, {tmp_path / 'planner'}, hides lmplan's own\n"
    )


def test_the_readme_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        shown = [line.partition("# ")[2] for line in block.splitlines() if line.lstrip().startswith("print(")]
        assert capsys.readouterr().out.splitlines() == shown


def test_the_wheel_ships_it_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        assert {"lmplan/__init__.py", "lmplan/py.typed", "planner/py.typed", "quantize/py.typed"} <= names
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "lmplan = lmplan:main" in wheel.read(entry).decode()
