"""Item files: what a shop says of its items, for training and evaluation.

JSON lines are as `POST /v1/items` takes them. In CSV and Parquet a row is an item: the columns are
its fields, and any other is a property of that name. An item may come again, as a change.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from recsys.events import InputError
from recsys.items import FIELDS, FieldError, Item, listed_change_of, merged

ITEMS = "items.ndjson"  # of a data directory: the catalogue as `recsys stream` last wrote it
LINES = (".ndjson", ".jsonl")
TABLES = (".csv", ".parquet")


class ItemFileError(InputError):
    """A file of items cannot be used; the text names it, the row and what would do."""


def load_items(paths: Sequence[str | Path]) -> dict[str, Item]:
    """What files say of items, by id. Raises ItemFileError."""
    items: dict[str, Item] = {}
    for path in map(Path, paths):
        for row, data in _rows(path):
            try:
                item_id, change = listed_change_of(data)
                items[item_id] = merged(items.get(item_id), change)
            except FieldError as error:
                raise ItemFileError(f"{path}, row {row}: {error}") from error
    return items


def write_items(path: Path, items: Iterable[tuple[str, bytes]]) -> int:
    """Write items, by id and as JSON objects, into a file that appears by rename; returns how many.

    Raises OSError.
    """
    part, count = path.with_suffix(".part"), 0
    with part.open("wb") as file:
        for item_id, known in items:
            file.write(b'{"item_id":' + orjson.dumps(item_id) + b"," + known[1:] + b"\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return count


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a file as JSON objects, with their numbers from 1."""
    try:
        if path.suffix in LINES:
            yield from _lines(path)
        elif path.suffix in TABLES:
            read = pl.read_csv if path.suffix == ".csv" else pl.read_parquet
            yield from _of_table(path, read(path))
        else:
            known = ", ".join((*LINES, *TABLES))
            raise ItemFileError(f"{path}: a file of items ends in one of {known}")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ItemFileError(f"{path}: cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for row, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield row, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise ItemFileError(f"{path}, row {row}: not JSON: {error}") from error


def _of_table(path: Path, frame: pl.DataFrame) -> Iterator[tuple[int, Any]]:
    if "item_id" not in frame.columns:
        raise ItemFileError(f"{path}: no column item_id; there are {', '.join(frame.columns)}")
    frame = frame.with_columns(pl.col("item_id").cast(pl.String))
    for row, values in enumerate(frame.iter_rows(named=True), 1):
        given = {name: value for name, value in values.items() if value is not None}
        known = {name: value for name, value in given.items() if name in ("item_id", *FIELDS)}
        others = {name: value for name, value in given.items() if name not in known}
        yield row, {**known, **({"properties": others} if others else {})}
