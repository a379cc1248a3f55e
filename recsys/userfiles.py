"""User files: whom to make lists for, read some at a time.

A text file has one id a line; a CSV or Parquet file has a column `user_id`, and whatever else.
"""

import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from recsys.events import MAX_ID_LENGTH, InputError
from recsys.interactions import IdMap

COLUMN = "user_id"
READ = 65_536  # rows at a time


class UserFileError(InputError):
    """A file of users cannot be used; the text names it, the row and what would do."""


def users_of(path: Path) -> Iterator[str]:
    """The ids that a file names, in its order, as often as it does. Raises UserFileError."""
    rows = {".csv": _of_csv, ".parquet": _of_parquet}.get(path.suffix.lower(), _of_text)
    try:
        for row, user in rows(path):
            if not user or len(user) > MAX_ID_LENGTH:
                what = f"longer than {MAX_ID_LENGTH} characters" if user else "empty"
                raise UserFileError(
                    f"{path}, row {row}: {COLUMN} is {what}; mend or remove the row"
                )
            yield user
    except UnicodeDecodeError as error:
        raise UserFileError(
            f"{path}: not UTF-8 text: {error}; a file with columns ends in .csv or .parquet"
        ) from error
    except (OSError, csv.Error, pl.exceptions.PolarsError) as error:
        raise UserFileError(f"{path}: cannot be read: {error}") from error


def all_users(users: IdMap) -> Iterator[str]:
    """Every user that a bundle knows, in the order of its rows."""
    for start in range(0, len(users), READ):
        yield from users.ids(range(start, min(start + READ, len(users))))


def once(user_ids: Iterator[str], users: IdMap) -> Iterator[str]:
    """Each user the first time only. users: the known ones; of others the ids are remembered."""
    seen, others = bytearray(len(users)), set[str]()
    for block in blocks(user_ids, READ):
        for user, row in zip(block, users.rows(block).tolist(), strict=True):
            if row < 0:
                if user in others:
                    continue
                others.add(user)
            elif seen[row]:
                continue
            else:
                seen[row] = 1
            yield user


def blocks(user_ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """So many at a time, fewer at the end."""
    left = iter(user_ids)
    while block := list(islice(left, size)):
        yield block


def _of_text(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank."""
    with path.open(encoding="utf-8-sig") as file:
        for row, line in enumerate(file, 1):
            if user := line.strip():
                yield row, user


def _of_csv(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        _check_column(path, list(rows.fieldnames or ()))
        for row, values in enumerate(rows, 1):
            yield row, (values[COLUMN] or "").strip()


def _of_parquet(path: Path) -> Iterator[tuple[int, str]]:
    scan = pl.scan_parquet(path, glob=False)
    schema = scan.collect_schema()
    _check_column(path, schema.names())
    kind = schema[COLUMN]
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical)):
        raise UserFileError(f"{path}: {COLUMN} is of type {kind}; make it text or whole numbers")
    for start in range(0, scan.select(pl.len()).collect().item(), READ):
        part = scan.select(pl.col(COLUMN).cast(pl.String)).slice(start, READ).collect()
        yield from enumerate((user or "" for user in part[COLUMN]), start + 1)


def _check_column(path: Path, names: list[str]) -> None:
    if COLUMN not in names:
        there = ", ".join(names) or "none"
        raise UserFileError(
            f"{path}: no column {COLUMN}; there are: {there}. Rename the one that holds the ids"
        )
