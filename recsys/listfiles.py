"""List files: lists of many users in one Parquet file, which appears whole or not at all."""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from recsys.bundle import fsync
from recsys.events import InputError

ROWS = 250_000  # of a row group, and about as many are in memory


class ListFileError(InputError):
    """Lists cannot be written; the text says where and why. What was there before is left."""


class ListFile:
    """Rows on their way to a file. They wait in a folder beside it, in parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._parts: list[Path] = []
        self._waiting: list[pl.DataFrame] = []
        self._in_memory = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Rows behind those that are there; all of the same columns."""
        self._waiting.append(frame)
        self._in_memory += len(frame)
        self.rows += len(frame)
        if self._in_memory >= ROWS:
            self._flush()

    def merge(self, into: Path, metadata: Mapping[str, str]) -> None:
        """All of them as one file, part by part."""
        self._flush()
        whole = pl.scan_parquet(self._parts, glob=False)
        whole.sink_parquet(into, row_group_size=ROWS, metadata=dict(metadata))

    def _flush(self) -> None:
        if not self._waiting:
            return
        part = self.folder / f"{len(self._parts):06d}.parquet"
        pl.concat(self._waiting).write_parquet(part)
        self._parts.append(part)
        self._waiting, self._in_memory = [], 0


@contextmanager
def written(path: Path, metadata: Mapping[str, str]) -> Iterator[ListFile]:
    """A file of what is added within, at least a row; in its place once all of it is on the disk.

    metadata: of the Parquet file. After an error or an interrupt nothing is left of it, and a file
    that was there before is as it was. Raises ListFileError, at once where nothing can be written.
    """
    if path.is_dir():
        raise ListFileError(f"{path} is a folder; name a file: {path / 'recs.parquet'}")
    folder = path.with_name(f".{path.name}.parts")
    try:
        with _own_folder(folder, path):
            lists = ListFile(folder)
            yield lists
            whole = folder / "whole.parquet"
            lists.merge(whole, metadata)
            fsync(whole)
            whole.replace(path)
        fsync(path.parent)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ListFileError(f"{path}: cannot be written: {error}") from error


@contextmanager
def _own_folder(folder: Path, path: Path) -> Iterator[None]:
    """An empty folder, removed in the end; what a run that was killed has left there goes too."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ListFileError(
                f"{path}: another run is writing it; wait for that or name another file"
            ) from error
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
