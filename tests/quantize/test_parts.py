"""The small parts: events, lines, progress, text files, values of scales, failures, staging, the synthetic commands."""

from __future__ import annotations

import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import EnvironmentProblem, UsageError
from planner.model.dtypes import DType
from planner.units import GIB
from quantize.checkpoint.values import look_at
from quantize.lite.dataset import draw_rows, measure, read_rows, write_dataset
from quantize.lite.events import Event, Phase, parse_line
from quantize.lite.failures import last_meaningful_line
from quantize.lite.methods import METHODS
from quantize.recipe.model import MethodName
from quantize.run.progress import PlainLines, Tracker, format_seconds, make_display
from quantize.run.staging import clean_leftover, is_free, open_staging
from quantize.system.lines import LineSplitter


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("Loading calibrate dataset ...", Event(Phase.LOADING, "dataset")),
        (
            "model.layers.0, samples: 128, max gpu memory: 12.50 GB",
            Event(Phase.CALIBRATION, "model.layers.0", round(12.5 * GIB)),
        ),
        ("model.layers.3 smooth weight done.", Event(Phase.SMOOTHING, "model.layers.3")),
        (
            "model.layers.3 smooth weight done. max gpu memory: 1.00 GB",
            Event(Phase.SMOOTHING, "model.layers.3", GIB),
        ),
        ("model.layers.0.mlp.up_proj weight packed.", Event(Phase.PACKING, "model.layers.0.mlp.up_proj")),
        ("model.layers.0.mlp.gate weight skipped.", Event(Phase.PACKING, "model.layers.0.mlp.gate")),
        ("Move model.layers.0 to CPU.", None),
        ("weight.amax.min is zero, clamping weight.amax to 1e-4", None),
        ("", None),
    ],
)
def test_lines_of_lmdeploy(line, event):
    assert parse_line(line, METHODS[MethodName.AWQ].event) == event


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_they_are_cut(pieces):
    def lines(chunks):
        splitter = LineSplitter()
        return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.end())

    assert lines(pieces) == lines([b"".join(pieces)])


def test_a_long_line_is_cut_and_the_next_is_whole():
    splitter = LineSplitter()
    lines = [line for _ in range(40) for line in splitter.feed(b"x" * 50_000)]
    lines += splitter.feed(b"\nnext\r 50%|##\n")
    assert [len(lines[0]), *lines[1:]] == [2**16, "next", " 50%|##"]


def tracker():
    steps = {Phase.LOADING: 1, Phase.CALIBRATION: 2, Phase.SMOOTHING: 2, Phase.PACKING: 4, Phase.SAVING: 1}
    return Tracker(steps, dict.fromkeys(Phase, 1.0))


def test_progress_grows_from_nothing_to_saving():
    track = tracker()
    seen = [track.fraction]
    events = [Event(Phase.LOADING, "d"), *[Event(Phase.CALIBRATION, "c", 5)] * 2, *[Event(Phase.SMOOTHING, "s")] * 2]
    events += [Event(Phase.PACKING, "p")] * 4
    for event in events:
        track.see(event)
        seen.append(track.fraction)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == pytest.approx(0.8)
    assert track.phase is Phase.SAVING and track.gpu_bytes == 5
    assert track.remaining_s(80) == pytest.approx(20)
    # More events than expected do no harm.
    track.see(Event(Phase.PACKING, "p"))
    assert track.fraction <= 1


def test_progress_off_a_terminal_is_few_plain_lines():
    stream = io.StringIO()
    display, track = make_display(stream), tracker()
    assert isinstance(display, PlainLines)
    with display:
        for _ in range(100):
            display.update(track)
    assert len(stream.getvalue().splitlines()) == 1


def test_progress_on_a_terminal_is_one_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream, track = Terminal(), tracker()
    display = make_display(stream)
    with display:
        track.see(Event(Phase.CALIBRATION, "model.layers.0", GIB))
        display.update(track)
    assert not isinstance(display, PlainLines)
    assert "calibration 1/2" in stream.getvalue() and "GPU 1.00 GiB" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (75.3, "1:15"), (3725, "1:02:05")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_text_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    assert list(read_rows(tmp_path / "a.txt")) == ["one\ntwo", "three"]
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": " "}\n{"text": "zwölf"}\n')
    rows = list(read_rows(tmp_path / "a.jsonl"))
    assert rows == ["one", "zwölf"]
    size = measure(rows)
    assert (size.rows, size.characters, size.utf8_bytes) == (2, 10, 11)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"x", "not a calibration text"),
        ("missing.txt", None, "No such file"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "a.jsonl:2: there is no 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: 'text' is not a text"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected an object"),
        ("a.jsonl", b"{\n", "a.jsonl:1: not a line of JSON"),
    ],
)
def test_text_files_that_cannot_be_used(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(read_rows(tmp_path / name))
    assert said in caught.value.message


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["one", "two"]}), path)
    assert list(read_rows(path, "body")) == ["one", "two"]
    with pytest.raises(UsageError, match="no column 'text'; it has body"):
        list(read_rows(path))
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="not a parquet file"):
        list(read_rows(path))


def test_dataset_folder(tmp_path):
    write_dataset(tmp_path, ["a" * 150_000, 'b "quoted" \n'], ("train", "test"))
    rows = [json.loads(line)["text"] for line in (tmp_path / "wikitext/train.jsonl").read_text().splitlines()]
    assert [len(row) for row in rows] == [100_000, 50_000, 12]
    readme = (tmp_path / "wikitext/README.md").read_text()
    assert "wikitext-2-raw-v1" in readme and "split: test" in readme


def test_drawn_text_is_the_same_for_the_same_seed():
    assert draw_rows(1, 5000) == draw_rows(1, 5000) != draw_rows(2, 5000)
    assert sum(map(len, draw_rows(0, 5000))) >= 5000


@pytest.mark.parametrize(("dtype", "letter"), [(DType.F16, "e"), (DType.BF16, None)])
def test_odd_scales_are_counted(dtype, letter):
    values = [1.0, 0.0, -0.0, float("nan"), float("inf"), -2.0, 1e-6]
    if letter:
        words = struct.pack(f"<{len(values)}e", *values)
    else:
        words = b"".join(struct.pack("<f", value)[2:] for value in values)
    odd = look_at(words, dtype)
    assert (odd.count, odd.nan, odd.infinite, odd.zero, odd.negative) == (7, 1, 1, 2, 1)
    assert odd.problem == "1 of 7 scales are NaN"
    assert look_at(words[:2], dtype).problem == ""
    assert look_at(words[2:6], dtype).problem == "all 2 scales are zero"


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        (["Traceback (most recent call last):", "  File x", "ValueError: no", "  50%|###"], "ValueError: no"),
        (["torch.OutOfMemoryError: CUDA out of memory.", "more words"], "torch.OutOfMemoryError: CUDA out of memory."),
        (["all is well", ""], "all is well"),
        ([], "it printed nothing"),
    ],
)
def test_last_meaningful_line(tail, line):
    assert last_meaningful_line(tail) == line


def test_staging_appears_by_one_rename(tmp_path):
    output = tmp_path / "deep" / "out"
    with open_staging(output) as staging:
        (staging.result / "config.json").write_text("{}")
        assert not output.exists()
        with pytest.raises(EnvironmentProblem, match="another run"), open_staging(output):
            pass
        staging.publish()
        staging.remove()
    assert (output / "config.json").exists()
    assert not is_free(output) and is_free(tmp_path / "nothing")
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_staging_replaces_an_empty_folder_and_no_other(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    assert is_free(output)
    with open_staging(output) as staging:
        (output / "someone").write_text("was faster")
        with pytest.raises(EnvironmentProblem, match="cannot put the result in place"):
            staging.publish()
    assert (output / "someone").read_text() == "was faster"


def test_leftovers_are_recognised(tmp_path):
    output = tmp_path / "out"
    assert not clean_leftover(output)
    with open_staging(output) as staging:
        (staging.work / "half").write_text("")
    assert staging.root.exists()
    assert clean_leftover(output) and not staging.root.exists()


def test_a_download_that_fails_is_one_line(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    from types import SimpleNamespace

    from quantize.run.workflow import _commit, _download

    def refuse(*arguments, **options):
        raise OSError("no route to host\nand more")

    job = SimpleNamespace(source=SimpleNamespace(hf_id="org/name", revision=None))
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(EnvironmentProblem, match=r"cannot download org/name: no route to host$"):
        _download(job)
    snapshot = tmp_path / "snapshots" / "0123abcd"
    monkeypatch.setattr(hub, "snapshot_download", lambda *arguments, **options: str(snapshot))
    assert _download(job) == snapshot
    assert _commit(snapshot) == "0123abcd"
    assert _commit(tmp_path) is None
