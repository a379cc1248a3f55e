"""Log files: CSV, JSONL and Parquet as tables of raw columns, and the lines that cannot be read.

The fast path reads a file whole. Only a file with broken lines takes the slow one: the lines are
found, the others copied to a temporary file, and that is read.
"""

import csv
import glob
import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import polars as pl

from recsys.events import InputError

if TYPE_CHECKING:
    from polars._typing import CsvEncoding

# One rejected row; ``row`` counts data rows from 1, ``line`` the file's lines where they are known.
REJECT_SCHEMA: dict[str, pl.DataType] = {
    "file": pl.String(),
    "row": pl.Int64(),
    "line": pl.Int64(),
    "field": pl.String(),
    "reason": pl.String(),
    "message": pl.String(),
    "value": pl.String(),
}
MAX_SHOWN = 200  # characters of a rejected value that are kept

SNIFFED_LINES = 10_000  # of a JSONL file, to learn its fields
MAX_RECORD_LINES = 100  # a quoted CSV field with more line breaks is taken for a stray quote
QUOTED = "\x01"  # stands for a quoted part while fields are counted
UNREADABLE = "\ufffd"  # what a byte that is not UTF-8 becomes


class LogError(InputError):
    """A log cannot be used. The text names the file, the field, the row and the remedy."""


@dataclass(frozen=True)
class Table:
    """The raw rows of one file."""

    frame: pl.DataFrame  # the columns asked for, as the file has them; text formats: String
    rows: pl.Series  # Int64, 1-based data row of each
    broken: pl.DataFrame  # REJECT_SCHEMA: rows that could not be read at all

    @classmethod
    def of(
        cls, frame: pl.DataFrame, broken: list[dict[str, Any]] | None = None, rows: Any = None
    ) -> "Table":
        """``rows`` default to 1, 2, 3, …"""
        rows = np.arange(1, len(frame) + 1) if rows is None else rows
        broken_rows = pl.DataFrame(broken or [], REJECT_SCHEMA)
        return cls(in_one_piece(frame), pl.Series("row", rows, dtype=pl.Int64), broken_rows)

    @property
    def read(self) -> int:
        return len(self.frame) + len(self.broken)


@dataclass(frozen=True)
class Source:
    """One file, opened: its columns are known, its rows not yet read."""

    name: str
    columns: list[str]  # none: the file is empty
    read: Callable[[list[str]], Table]  # the columns named
    late: bool = False  # other columns may turn up in later rows and can be asked for


def in_one_piece(frame: pl.DataFrame) -> pl.DataFrame:
    """One chunk per column. Takes the given frame apart, so that one column is held twice at most.

    Readers deliver many chunks, and joining such columns with others copies them every time.
    """
    if frame.n_chunks("all") == [1] * frame.width:
        return frame
    names = frame.columns
    return pl.DataFrame([frame.drop_in_place(name).rechunk() for name in names])


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The log files behind files, folders and globs, each once. LogError for an empty one.

    Hidden and temporary files of a folder or glob are left out: ``.x``, ``_x``, ``x.tmp``.
    """
    if not paths:
        raise LogError("no log given: name a file, a folder or a glob")
    found = {file.resolve(): file for path in paths for file in _expand(path)}
    return list(found.values())


def open_source(path: Path) -> Source:
    """The file behind a path, by its extension. Raises LogError."""
    kind = _format(path)
    if kind is None:
        known = " ".join(FORMATS)
        raise LogError(f"{path}: unknown kind of file; known: {known}, text also as .gz and .zst")
    with _reading(path):
        text = kind != ".parquet"
        if path.stat().st_size == 0 or (text and _scan_lines(path, n_rows=1).collect().is_empty()):
            return Source(str(path), [], lambda _: Table.of(pl.DataFrame()))
        return FORMATS[kind](path)


def reject(file: str, row: int, line: int, reason: str, message: str, value: str) -> dict[str, Any]:
    """A row of REJECT_SCHEMA for a line that could not be read."""
    fields = (file, row, line, None, reason, message, value[:MAX_SHOWN])
    return dict(zip(REJECT_SCHEMA, fields, strict=True))


def _expand(path: str | Path) -> Iterable[Path]:
    path = Path(path)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if _is_log(f.relative_to(path)) and f.is_file())
        if not files:
            raise LogError(f"{path}: no log files in this folder ({' '.join(FORMATS)})")
        return files
    if path.exists():
        return [path]
    matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
    files = [match for match in matches if match.is_file() and _is_log(Path(match.name))]
    if not files:
        raise LogError(f"{path}: no such file or folder")
    return files


def _is_log(path: Path) -> bool:
    return _format(path) is not None and not any(part[0] in "._" for part in path.parts)


def _format(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    packed = bool(suffixes) and suffixes[-1] in (".gz", ".zst")
    kind = suffixes[-1 - packed] if len(suffixes) > packed else ""
    return kind if kind in FORMATS and not (packed and kind == ".parquet") else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of the operating system and of the reader, as LogError naming the file."""
    try:
        yield
    # Damaged Parquet can make the reader panic, which is no Exception.
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        text = str(error).strip() or type(error).__name__
        raise LogError(f"{path}: cannot be read: {text.splitlines()[0]}") from error


def _rows_left(kept: int, broken: list[dict[str, Any]]) -> Any:
    """The row numbers of the kept rows: all but the broken ones."""
    return np.delete(np.arange(1, kept + len(broken) + 1), [entry["row"] - 1 for entry in broken])


def _scan_lines(path: Path, encoding: "CsvEncoding" = "utf8-lossy", **options: Any) -> pl.LazyFrame:
    """The lines of a text file as String ``text``, counted from 0 in ``line``."""
    scan = pl.scan_csv(
        path,
        has_header=False,
        schema={"text": pl.String},
        separator="\x00",
        quote_char=None,
        encoding=encoding,
        truncate_ragged_lines=True,
        raise_if_empty=False,
        glob=False,
        **options,
    )
    return scan.with_row_index("line")


def _is_utf8(path: Path) -> bool:
    """False: a replacement character in a line of this file stands for broken bytes."""
    try:
        _scan_lines(path, "utf8").select(pl.col("text").str.len_bytes().sum()).collect()
    except pl.exceptions.ComputeError:
        return False
    return True


# Parquet


def _open_parquet(path: Path) -> Source:
    def read(columns: list[str]) -> Table:
        with _reading(path), _scanned(path) as scan:
            return Table.of(scan.select(columns).collect())

    with _scanned(path) as scan:
        return Source(str(path), scan.collect_schema().names(), read)


@contextmanager
def _scanned(path: Path) -> Iterator[pl.LazyFrame]:
    """A Parquet file, opened once: polars opens it by name for each part of it, and meanwhile
    another file may have taken the name, as those of the lake do."""
    with path.open("rb") as file:
        yield pl.scan_parquet(f"/dev/fd/{file.fileno()}", glob=False)


# CSV


def _open_csv(path: Path) -> Source:
    header = _scan_lines(path, n_rows=1).collect()["text"].fill_null("").item()
    separator = max(",;\t|", key=header.count)
    names = _scan_csv(path, separator).collect_schema().names()

    def read(columns: list[str]) -> Table:
        with _reading(path):
            return _read_csv(path, separator, len(names), columns)

    return Source(str(path), names, read)


def _read_csv(path: Path, separator: str, width: int, columns: list[str]) -> Table:
    flaws = _csv_flaws(path, separator, width)
    if not flaws.dropped:
        return Table.of(_scan_csv(path, separator).select(columns).collect())
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.csv"
        good = _scan_lines(path).filter(~pl.col("line").is_in(flaws.dropped))
        good.select("text").sink_csv(clean, include_header=False, quote_style="never")
        frame = _scan_csv(clean, separator).select(columns).collect()
    return Table.of(frame, flaws.broken, _rows_left(len(frame), flaws.broken))


def _scan_csv(path: Path, separator: str) -> pl.LazyFrame:
    return pl.scan_csv(
        path,
        separator=separator,
        infer_schema=False,
        encoding="utf8-lossy",
        truncate_ragged_lines=True,
        glob=False,
    )


@dataclass
class _CsvFlaws:
    file: str
    dropped: list[int]  # lines, from 0, that are in no readable row: broken or blank
    broken: list[dict[str, Any]]
    no_rows: int = 0  # lines so far that began no row: blank, or inside a quoted field

    def reject(self, lines: range, reason: str, message: str, text: str) -> None:
        line = lines.start
        row = line - self.no_rows
        self.broken.append(reject(self.file, row, line + 1, reason, message, text))
        self.dropped.extend(lines)


def _csv_flaws(path: Path, separator: str, width: int) -> _CsvFlaws:
    """The lines of a CSV file that are not one row of ``width`` fields, sorted out.

    A vectorised scan picks the suspects, Python's strict CSV reader judges them.
    """
    if _is_plain(path, separator, width):
        return _CsvFlaws(str(path), [], [])
    text = pl.col("text").fill_null("")
    bare = text.str.replace_all('"[^"]*"', QUOTED)
    s = f"[^{separator}\r{QUOTED}]"
    suspect = bare.str.contains(f'"|{QUOTED}{s}|{s}{QUOTED}')
    suspect |= bare.str.count_matches(separator, literal=True) != width - 1
    suspect |= text.str.contains(UNREADABLE, literal=True)
    lines = _scan_lines(path).filter((pl.col("line") > 0) & suspect)
    suspects: dict[int, str] = dict(lines.select("line", text).collect().iter_rows())
    unreadable = any(UNREADABLE in text for text in suspects.values()) and not _is_utf8(path)
    spans = _quoted_spans(path, suspects)

    flaws = _CsvFlaws(str(path), [], [])
    done = 0  # the last line already judged
    for line, first in suspects.items():
        if line <= done:
            continue
        lines_of_row, record = range(line, line + 1), first
        fields = _count_fields(first, separator)
        if fields is None and line in spans:
            joined = "\n".join(spans[line])
            if _count_fields(joined, separator) == width:
                lines_of_row, record = range(line, line + len(spans[line])), joined
                fields = width
        done = lines_of_row[-1]
        if not first.strip("\r"):
            flaws.dropped.append(line)
            flaws.no_rows += 1
        elif unreadable and UNREADABLE in record:
            flaws.reject(lines_of_row, "not_utf8", "bytes that are not UTF-8", record)
        elif fields is None:
            flaws.reject(lines_of_row, "csv_quotes", "a quote out of place or never closed", record)
        elif fields != width:
            message = f"{fields} fields where the header has {width}"
            flaws.reject(lines_of_row, "csv_fields", message, record)
        flaws.no_rows += len(lines_of_row) - 1
    return flaws


def _is_plain(path: Path, separator: str, width: int) -> bool:
    """No quotes, and every line has its fields: twice as fast as looking closer."""
    text = pl.col("text").fill_null("")
    odd = text.str.count_matches(separator, literal=True) != width - 1
    for sign in ('"', UNREADABLE):
        odd |= text.str.contains(sign, literal=True)
    return not _scan_lines(path).select(odd.any()).collect().item()


def _count_fields(record: str, separator: str) -> int | None:
    """Fields of one CSV record; None if its quotes are broken.

    Strict CSV takes a quote inside a bare field (``5" disk``) for a character, others for the
    begin of a quoted part. Only where both agree can every reader tell where the rows begin.
    """
    try:
        fields = next(csv.reader([record.rstrip("\r")], delimiter=separator, strict=True))
    except csv.Error:
        return None
    bare = re.sub('"[^"]*"', "", record)
    return len(fields) if bare.count(separator) == len(fields) - 1 and '"' not in bare else None


def _quoted_spans(path: Path, suspects: dict[int, str]) -> dict[int, list[str]]:
    """For each line that leaves a quote open: the lines to the next one that could close it."""
    odd = [line for line, text in suspects.items() if text.count('"') % 2]
    pairs = [(a, b) for a, b in itertools.pairwise(odd) if b - a < MAX_RECORD_LINES]
    if not pairs:
        return {}
    wanted = sorted({line for a, b in pairs for line in range(a, b + 1)})
    lines = _scan_lines(path).filter(pl.col("line").is_in(wanted)).collect()
    texts = dict(lines.with_columns(pl.col("text").fill_null("")).iter_rows())
    return {a: [texts[line] for line in range(a, b + 1)] for a, b in pairs}


# JSONL


def _open_jsonl(path: Path) -> Source:
    names: dict[str, None] = {}
    for text in _scan_lines(path, n_rows=SNIFFED_LINES).collect()["text"].drop_nulls():
        names.update(dict.fromkeys(_parse_object(text.removeprefix("\ufeff")) or ()))
    if not names:
        raise LogError(f"{path}: no JSON object in the first {SNIFFED_LINES:,} lines")

    def read(columns: list[str]) -> Table:
        with _reading(path):
            try:
                return Table.of(_scan_jsonl(path, columns).collect())
            except pl.exceptions.ComputeError:
                return _read_broken_jsonl(path, columns)

    return Source(str(path), list(names), read, late=True)


def _scan_jsonl(path: Path, columns: list[str]) -> pl.LazyFrame:
    return pl.scan_ndjson(path, schema=dict.fromkeys(columns, pl.String))


def _read_broken_jsonl(path: Path, columns: list[str]) -> Table:
    """Line by line: the good ones, cut to the columns asked for, go to a file that reads fast."""
    broken: list[dict[str, Any]] = []
    row = 0
    unreadable = not _is_utf8(path)
    with tempfile.TemporaryDirectory() as folder:
        raw, clean = Path(folder) / "raw.txt", Path(folder) / "clean.jsonl"
        _scan_lines(path).select("text").sink_csv(raw, include_header=False, quote_style="never")
        with raw.open(encoding="utf-8", newline="\n") as lines, clean.open("wb") as good:
            for line, text in enumerate(lines, start=1):
                text = text.strip().removeprefix("\ufeff")
                if not text:
                    continue
                row += 1
                fields = _parse_object(text)
                if unreadable and UNREADABLE in text:
                    entry = ("not_utf8", "bytes that are not UTF-8")
                elif fields is None:
                    entry = ("json", "not a JSON object")
                else:
                    good.write(orjson.dumps({k: v for k, v in fields.items() if k in columns}))
                    good.write(b"\n")
                    continue
                broken.append(reject(str(path), row, line, *entry, text))
        frame = _scan_jsonl(clean, columns).collect()
    return Table.of(frame, broken, _rows_left(len(frame), broken))


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


FORMATS: dict[str, Callable[[Path], Source]] = {
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".parquet": _open_parquet,
}
