"""Fleet files: every error at once and with its line; whatever is in them, never a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import UsageError
from planner.fleet.file import read_fleet

Write = Callable[[str], Path]
BAD = """\
lmdeploy: abc
shar: true
workloads:
  - model: internlm2_5-7x
    context: -5
    concurency: 3
    images: two
  - name: a
    name: b
    context: 99
  - model: qwen3-8b
    gpus: [a10, zzz]
    copies: 0
    latency_ms: .nan
  - 5
  - model: qwen3-8b
    name: other
    context: 500000
    images: 3
    engine: vllm
    keep_quality: "yes"
machines:
  - gpu: a101
  - gpu: a10
    free: 100GiB
  - gpu: 24GiB
  - gpu: l4
    gpus_each: 16
  - gpu: l4
  - {}
together:
  - machines: x
    start: [c, c]
  - start: other
"""
EXPECTED = [
    (1, "lmdeploy 'abc' is not a version"),
    (2, "unknown key 'shar'. Perhaps you meant share"),
    (4, "unknown model 'internlm2_5-7x'. Perhaps you meant internlm2_5-7b"),
    (5, "context is '-5'; expected a whole number from 1"),
    (6, "unknown key 'concurency'. Perhaps you meant concurrency"),
    (7, "images is 'two'; expected a whole number from 0"),
    (8, "model is missing"),
    (9, "name is given twice"),
    (12, "unknown GPU 'zzz'"),
    (13, "copies is '0'; expected a whole number from 1"),
    (14, "latency_ms is '.nan'; expected a number above 0"),
    (15, "a workload is a single value; expected keys and values"),
    (18, "context is 500000; qwen3-8b ends at 40960 tokens"),
    (19, "images is 3; qwen3-8b takes none"),
    (20, "engine is 'vllm'; expected turbomind or pytorch"),
    (21, "keep_quality is 'yes'; expected true or false"),
    (23, "unknown GPU 'a101'. Perhaps you meant"),
    (25, "free is 100GiB; expected at most"),
    (26, "needs --sm"),
    (28, "gpus_each is '16'; expected a whole number from 1 to 8"),
    (29, "the name 'l4' is taken"),
    (30, "gpu is missing"),
    (32, "machines is 'x', which is none of them"),
    (33, "'c' is no workload"),
    (33, "'c' is started twice"),
    (34, "machines is missing"),
]


def problems(path: Path) -> list[tuple[int, str]]:
    with pytest.raises(UsageError) as caught:
        read_fleet(path)
    head, *lines = caught.value.message.splitlines()
    assert head == f"{path} has {len(lines)} error{'s' if len(lines) > 1 else ''}"
    split = [line.removeprefix("fleet.yaml:").split(": ", 1) for line in lines]
    return [(int(number), text) for number, text in split]


def test_all_errors_are_told_with_their_lines(write: Write) -> None:
    found = problems(write(BAD))
    for line, text in EXPECTED:
        assert any(line == at and text in said for at, said in found), (line, text, found)
    assert len(found) == len(EXPECTED)
    assert [line for line, _ in found] == sorted(line for line, _ in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("[]", "the file is a list; expected keys and values"),
        ("workloads: []\nmachines: []\n", "workloads is empty"),
        ("workloads: 3\nmachines:\n", "workloads is a single value; expected a list"),
        ("machines:\n  - gpu: a10\n", "workloads is missing"),
    ],
)
def test_what_is_no_fleet(text: str, says: str, write: Write) -> None:
    assert any(says in said for _, said in problems(write(text)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1\nb: 2\n", "fleet.yaml:2: "),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a: \x00", "not valid YAML"),
        (b"a: &x [*x]\nworkloads: *y\n", "fleet.yaml:1: aliases (*x) have no place in a fleet"),
        (b"a: !!timestamp z\n", "fleet.yaml:1: tags (!...) have no place in a fleet"),
    ],
)
def test_what_is_no_yaml(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_fleet(path)
    assert says in caught.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_fleet(tmp_path / "none.yaml")


def test_defaults_and_units(write: Write, fleet_text: str) -> None:
    fleet = read_fleet(write(fleet_text.replace("gpu: a10\n", "gpu: a10\n    free: 20GiB\n")))
    chat, _, small, _ = fleet.workloads
    assert (chat.load.context_tokens, chat.load.num_users, chat.copies) == (8192, 16, 3)
    assert (small.load.context_tokens, small.load.num_images, small.gpus) == (8192, 0, ())
    assert fleet.machines[0].free_bytes == 20 * 2**30
    assert fleet.machines[1].num_gpus == 8
    assert fleet.shared[0].start == ("small", "vision")


def test_versions_are_text_even_where_yaml_sees_a_number(write: Write, fleet_text: str) -> None:
    fleet = read_fleet(write(fleet_text.replace("lmdeploy: 0.18.0", "lmdeploy: 0.10")))
    assert fleet.workloads[0].lmdeploy.version == "0.10"


def test_whatever_a_file_holds_there_is_no_traceback(write: Write, fleet_text: str) -> None:
    chooser = random.Random(5)
    lines = fleet_text.splitlines()
    values = (
        "[]",
        "{}",
        "-1",
        "null",
        "true",
        "1e999",
        "'x'",
        "0x10",
        "2020-01-01",
        "!!python/object:x y",
        "&a *a",
        ":",
    )
    for _ in range(400):
        mutated = list(lines)
        for _ in range(chooser.randint(1, 4)):
            at = chooser.randrange(len(mutated))
            match chooser.randrange(5):
                case 0:
                    mutated[at] = mutated[at].partition(":")[0] + ": " + chooser.choice(values)
                case 1:
                    del mutated[at]
                case 2:
                    mutated.insert(at, mutated[chooser.randrange(len(mutated))])
                case 3:
                    mutated[at] = " " * chooser.randint(0, 6) + mutated[at].strip()
                case 4:
                    mutated[at] = mutated[at][: chooser.randrange(len(mutated[at]) + 1)]
            mutated = mutated or ["x"]
        try:
            read_fleet(write("\n".join(mutated) + "\n"))
        except UsageError as error:
            assert error.message
