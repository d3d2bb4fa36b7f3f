"""Opening what users name: what cannot be a good file is refused at once and in one line."""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from planner.errors import UsageError
from planner.files import reading
from planner.files.reading import CONFIG, FileKind, read_bytes, read_json, read_object, read_text

SMALL = FileKind("a note", 10, "make it shorter")


def test_reads_utf8_with_and_without_a_mark(tmp_path: Path) -> None:
    for raw in (b"\xef\xbb\xbfna\xc3\xafve", b"na\xc3\xafve"):
        (tmp_path / "a").write_bytes(raw)
        assert read_text(tmp_path / "a", CONFIG) == "naïve"


def test_a_byte_more_than_the_kind_allows_is_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    assert len(read_bytes(path, SMALL)) == 10
    path.write_bytes(b"x" * 11)
    with pytest.raises(UsageError, match="more than 10 bytes, too many for a note") as caught:
        read_bytes(path, SMALL)
    assert caught.value.hint == "make it shorter"


@pytest.mark.parametrize("make", ["fifo", "device", "folder", "socket", "link to a fifo"])
def test_what_is_no_regular_file_is_refused_in_a_blink(tmp_path: Path, make: str) -> None:
    path, what = tmp_path / "odd", {"device": "device", "folder": "folder", "socket": "socket"}.get(make, "pipe")
    server = socket.socket(socket.AF_UNIX)
    if make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path = Path("/dev/zero")
    elif make == "folder":
        path.mkdir()
    elif make == "socket":
        server.bind(str(path))
        what = "No such device or address"  # the kernel refuses to open one
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    started = time.monotonic()
    with server, pytest.raises(UsageError, match=what):
        read_bytes(path, CONFIG)
    assert time.monotonic() - started < 1


def test_a_missing_file_and_a_name_that_cannot_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_bytes(tmp_path / "none", CONFIG)
    with pytest.raises(UsageError, match="File name too long"):
        read_bytes(tmp_path / ("n" * 5000), CONFIG)
    with pytest.raises(UsageError, match="no such name can exist"):
        read_bytes(tmp_path / "a\0b", CONFIG)


def test_a_hostile_name_is_shown_spelled_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_bytes(tmp_path / "\x1b]0;owned\x07\u202ename\n", CONFIG)
    assert "\\x1b]0;owned\\x07\\u202ename\\n" in caught.value.message
    assert caught.value.message.isprintable()


def test_what_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc\xff")
    with pytest.raises(UsageError, match="not UTF-8 text: byte 3"):
        read_text(tmp_path / "a", CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2"),
        ('{"a":\n 1,}', "line 2, column 4"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 102 + "]" * 102, "nested too deeply"),
        ('{"a": NaN}', "NaN, which is no number in JSON"),
        ('{"a": -Infinity}', "-Infinity, which is no number"),
        ('{"a": 1e999}', "1e999, which is too large"),
        ('{"a": ' + "9" * 400 + "}", "whole number of 400 digits"),
        ('{"a": ' + "9" * 5000 + "}", "whole number of 5000 digits"),
        ("", "line 1, column 1"),
    ],
)
def test_json_that_nothing_can_be_counted_with(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_json(tmp_path / "a", CONFIG)


def test_json_numbers_that_can(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("[" * 101 + "]" * 101)
    assert read_json(tmp_path / "deep", CONFIG)
    (tmp_path / "a").write_text(f'{{"a": {2**127}, "b": -1.5e3}}')
    assert read_object(tmp_path / "a", CONFIG) == {"a": 2**127, "b": -1500.0}


def test_an_object_is_expected(tmp_path: Path) -> None:
    for text, kind in (("[]", "a list"), ('"x"', "a text"), ("3", "a number"), ("null", "null"), ("true", "true")):
        (tmp_path / "a").write_text(text)
        with pytest.raises(UsageError, match=f"holds {kind}.*; expected an object"):
            read_object(tmp_path / "a", CONFIG, "the plan")


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}')))
    assert read_object(Path("-"), CONFIG) == {"a": 1}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 11)))
    with pytest.raises(UsageError, match="standard input has more than 10 bytes"):
        read_bytes(Path("-"), SMALL)
    monkeypatch.setattr(reading.sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        read_bytes(Path("-"), SMALL)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a").write_text("x")
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(20):
        read_bytes(tmp_path / "a", CONFIG)
        with pytest.raises(UsageError):
            read_bytes(tmp_path / "fifo", CONFIG)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
