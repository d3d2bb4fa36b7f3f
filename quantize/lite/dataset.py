"""Your own calibration text, laid out so that LMDeploy reads it under the name of a dataset that it knows.

The `datasets` library prefers a folder of the dataset's name in the working folder to the Hub. A folder ``wikitext``
with one JSONL file a split is therefore what ``--calib-dataset wikitext2`` reads, with no change to LMDeploy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from planner.errors import EnvironmentProblem, UsageError, perhaps
from planner.files.escape import shown
from planner.files.reading import TEXT, open_regular

STANDS_FOR: Final = "wikitext2"
"""The dataset whose name own text takes: every version knows it, and it joins all rows into one text."""
_FOLDER: Final = "wikitext"
_CONFIG: Final = "wikitext-2-raw-v1"
# What LMDeploy puts between rows (`lite/utils/calib_dataloader.py`, get_wikitext2).
_JOINT: Final = "\n\n"
# Rows keep paragraphs whole, and a row as long as a book would be one unwieldy JSON line.
_MAX_ROW_CHARACTERS: Final = 100_000
_MAX_LINE_BYTES: Final = 64 * 2**20
"""Whole books stand on one line of .jsonl; the Bible has 4.4 MB."""
SUFFIXES: Final = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class TextSize:
    """How much text there is, once rows are joined."""

    rows: int
    characters: int
    utf8_bytes: int


def read_rows(path: Path, field: str = "text") -> Iterator[str]:
    """The texts of a .txt (paragraphs), .jsonl or .parquet file; empty ones are left out.

    Raises:
        UsageError: missing, unreadable, of another kind, or a row without the field, with its line.
        EnvironmentProblem: a .parquet file without pyarrow to read it.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{shown(path)} is not a calibration text", "Give a .txt, .jsonl or .parquet file")
    reader = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix]
    with open_regular(path, TEXT) as file:
        try:
            yield from (text for text in reader(file, path, field) if text.strip())
        except OSError as error:
            raise UsageError(f"cannot read {shown(path)}: {error.strerror or error}", TEXT.hint) from None


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of a text in UTF-8, each with its end.

    Raises:
        UsageError: one is too long to be text that anybody wrote, or not UTF-8.
    """
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > _MAX_LINE_BYTES:
            raise UsageError(f"{shown(path)}:{number}: a line of more than {_MAX_LINE_BYTES} bytes", TEXT.hint)
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{shown(path)}:{number}: not UTF-8 text: byte {error.start}", TEXT.hint) from None


def measure(rows: Iterable[str]) -> TextSize:
    """The size of the rows as LMDeploy will join them."""
    count = characters = utf8_bytes = 0
    for row in rows:
        count += 1
        characters += len(row)
        utf8_bytes += len(row.encode("utf-8", "surrogatepass"))
    joints = max(count - 1, 0) * len(_JOINT)
    return TextSize(count, characters + joints, utf8_bytes + joints)


def write_dataset(folder: Path, rows: Iterable[str], splits: tuple[str, ...]) -> None:
    """Write the folder that `datasets` takes for wikitext2, with the same rows in every split.

    Args:
        folder: the working folder of the LMDeploy process.
        rows: the texts.
        splits: those that this LMDeploy loads; it calibrates on ``train`` alone.
    """
    data = folder / _FOLDER
    data.mkdir(parents=True, exist_ok=True)
    with (data / "train.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            for start in range(0, len(row), _MAX_ROW_CHARACTERS):
                file.write(json.dumps({"text": row[start : start + _MAX_ROW_CHARACTERS]}) + "\n")
    lines = ["---", "configs:", f"- config_name: {_CONFIG}", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", "    path: train.jsonl"]
    (data / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def draw_rows(seed: int, characters: int) -> list[str]:
    """Text without meaning, the same for the same seed: words of letters in rows of a paragraph's length."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("etaoinshrdlucmfwypvbgkqjxz", k=dice.randint(1, 10))) for _ in range(2000)]
    rows: list[str] = []
    written = 0
    while written < characters:
        row = " ".join(dice.choices(words, k=100)) + "."
        rows.append(row)
        written += len(row)
    return rows


def _txt(file: BinaryIO, path: Path, field: str) -> Iterator[str]:
    paragraph: list[str] = []
    for line in _lines(file, path):
        if line.strip():
            paragraph.append(line.replace("\r\n", "\n"))
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
    if paragraph:
        yield "".join(paragraph).rstrip("\n")


def _jsonl(file: BinaryIO, path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(file, path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{shown(path)}:{number}: not a line of JSON") from None
        yield _field(row, field, f"{shown(path)}:{number}")


def _parquet(file: BinaryIO, path: Path, field: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise EnvironmentProblem(
            f"reading {shown(path)} needs pyarrow", "pip install pyarrow, or turn the file into .jsonl"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if field not in names:
                raise UsageError(
                    f"{shown(path)} has no column '{shown(field)}'; it has {shown(', '.join(names[:10]))}",
                    "Name it with calibration.text_field",
                )
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _field({field: value}, field, f"{shown(path)}, row {number}")
    except (ArrowException, ValueError) as error:  # pyarrow decodes texts only here
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{shown(path)} is not a parquet file: {shown(first[:120])}") from None


def _field(row: Any, field: str, place: str) -> str:
    field_name = f"'{shown(field)}'"
    if not isinstance(row, dict):
        raise UsageError(f"{place}: expected an object with {field_name}")
    value = row.get(field)
    if not isinstance(value, str):
        problem = f"{field_name} is not a text" if field in row else f"there is no {field_name}"
        raise UsageError(f"{place}: {problem}", perhaps(field, row) or "Name the field with calibration.text_field")
    return value
