"""Interactions: a log folded into weighted matrices, and the map from ids to int32 rows."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EventsConfig
from recsys.events import MIN_WEIGHT, InputError

Rows = NDArray[np.int32]

# Ids and rows looked up lately that are remembered: visitors and lists name the same ones again.
REMEMBERED = 50_000

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class IdMap:
    """External id <-> row, as arrays that can be memory-mapped; row order is the caller's.

    text: uint8, all ids as UTF-8, concatenated. offsets: int64 [n + 1] into text.
    hashes: uint64 [n], sorted 8-byte BLAKE2b of the ids. order: int32 [n], the row of each hash.
    """

    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    order: Rows

    @classmethod
    def from_ids(cls, ids: Sequence[str]) -> "IdMap":
        """Map distinct ids to 0..n-1 in the given order."""
        encoded = [i.encode() for i in ids]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        digests = b"".join(map(_digest, encoded))
        hashes = np.frombuffer(digests, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        return cls(
            text=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            hashes=hashes[order],
            order=order,
        )

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, item: str) -> bool:
        return bool(self.rows([item])[0] >= 0)

    def rows(self, ids: Sequence[str]) -> Rows:
        """The row of each id, -1 where it is unknown."""
        return np.array(_recall(self._rows_of, ids, self._look_up), dtype=np.int32)

    def ids(self, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The external id of each row."""
        return _recall(self._ids_of, np.asarray(rows).tolist(), self._read)

    # Empty at first, so that a map costs nothing to load.
    @cached_property
    def _rows_of(self) -> dict[str, int]:
        return {}

    @cached_property
    def _ids_of(self) -> dict[int, str]:
        return {}

    def _read(self, rows: list[int]) -> list[str]:
        return [self._bytes(row).decode() for row in rows]

    def _look_up(self, ids: list[str]) -> list[int]:
        found = [-1] * len(ids)
        encoded = [i.encode("utf-8", "surrogatepass") for i in ids]
        wanted = np.frombuffer(b"".join(map(_digest, encoded)), dtype=np.uint64)
        first = np.searchsorted(self.hashes, wanted)
        for k, at in enumerate(first.tolist()):
            # The loop runs once but for the one pair in 2**64 whose hashes are equal.
            while at < len(self) and self.hashes[at] == wanted[k]:
                if self._bytes(row := int(self.order[at])) == encoded[k]:
                    found[k] = row
                    break
                at += 1
        return found

    def _bytes(self, row: int) -> bytes:
        return self.text[self.offsets[row] : self.offsets[row + 1]].tobytes()


@dataclass(frozen=True)
class History:
    """What each known user did, latest item first, in CSR form.

    indptr: int64 [users + 1]. items: int32. weights: float32, summed event weights.
    bought: bool, the item was bought (and not returned). sessions: int32 [users], of each.
    """

    indptr: NDArray[np.int64]
    items: Rows
    weights: NDArray[np.float32]
    bought: NDArray[np.bool_]
    sessions: Rows

    def of(self, user: int) -> slice:
        """The entries of one user row; none for -1."""
        return slice(int(self.indptr[user]), int(self.indptr[user + 1])) if user >= 0 else slice(0)

    def of_all(
        self, users: Rows, most: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The entries of many user rows, of each the ``most`` latest; none for -1.

        Returns starts, int64 [users + 1], into the entries, int64.
        """
        first = self.indptr[users]
        counts = np.where(users >= 0, self.indptr[users + 1] - first, 0)
        if most is not None:
            counts = np.minimum(counts, most)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return starts, np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)


@dataclass(frozen=True)
class Sequences:
    """Item rows of every session's positive events in order; the session that ended first, first.

    indptr: int64 [sessions + 1]. items: int32.
    """

    indptr: NDArray[np.int64]
    items: Rows


@dataclass(frozen=True)
class Interactions:
    """A log as matrices. Item rows are in descending order of popularity, ties by id.

    by_visitor: CSR float32 [visitors, items]; the first rows are the known users, then each
    anonymous session is a visitor of its own. by_session: CSR float32 [sessions, items], 1 where
    the item was of interest. strangers: bool [sessions of sequences], nobody known was there.
    ended: float64 [sessions of sequences], the timestamp of the last event, ascending.
    popularity: float32 [items], summed positive weights.
    """

    items: IdMap
    users: IdMap
    by_visitor: sparse.csr_matrix
    by_session: sparse.csr_matrix
    sequences: Sequences
    strangers: NDArray[np.bool_]
    ended: NDArray[np.float64]
    history: History
    popularity: NDArray[np.float32]
    sessions: int
    repeat_purchase_rate: float


class NoInteractionsError(InputError):
    """The log holds no event that says anything about taste."""


def fold(frame: pl.DataFrame, config: EventsConfig) -> Interactions:
    """Fold a log in standard columns, sorted by time, into interactions.

    The same rules as a live session: types weigh as configured, a negative event cancels what the
    visitor did before with that item. Raises NoInteractionsError.
    """
    events = _weighted(_joined(frame), config)
    kept = _without_cancelled(events)
    if kept.is_empty():
        raise NoInteractionsError(
            "the log has no event that shows interest in an item; "
            "check the type column and [events.weights]"
        )
    items = (
        kept.group_by("item_id")
        .agg(popularity=pl.col("weight").sum())
        .sort("popularity", "item_id", descending=[True, False])
        .with_row_index("item")
    )
    users = kept.select(pl.col("user_id").drop_nulls().unique().sort()).with_row_index("user")
    sessions = kept.select(
        pl.col("session_id").unique(maintain_order=True),
    ).with_row_index("session")
    coded = (
        kept.join(items.select("item", "item_id"), on="item_id", maintain_order="left")
        .join(users, on="user_id", how="left", maintain_order="left")
        .join(sessions, on="session_id", maintain_order="left")
    )
    visitor = pl.coalesce(pl.col("user"), pl.col("session") + len(users))
    sequences, strangers, ended = _sequences(coded)
    return Interactions(
        items=IdMap.from_ids(items["item_id"].to_list()),
        users=IdMap.from_ids(users["user_id"].to_list()),
        by_visitor=_matrix(coded.with_columns(row=visitor), "weight", len(items)),
        by_session=_matrix(
            coded.select("item", row="session", weight=pl.lit(1.0)).unique(), "weight", len(items)
        ),
        sequences=sequences,
        strangers=strangers,
        ended=ended,
        history=_history(coded, len(users)),
        popularity=items["popularity"].to_numpy().astype(np.float32),
        sessions=frame["session_id"].n_unique(),
        repeat_purchase_rate=_repeat_purchase_rate(coded),
    )


def _recall(
    memory: dict[Key, Value], keys: Sequence[Key], look_up: Callable[[list[Key]], list[Value]]
) -> list[Value]:
    """The value of each key: from memory, or looked up (all that lack one at once) and kept there.

    A full memory is emptied rather than sorted by age: what is in use is soon back.
    """
    found = list(map(memory.get, keys))
    if None not in found:
        return found  # type: ignore[return-value]  # no None among them
    lacking = [key for key, value in zip(keys, found, strict=True) if value is None]
    new = dict(zip(lacking, look_up(lacking), strict=True))
    if len(memory) + len(new) > REMEMBERED:
        memory.clear()
    if len(new) <= REMEMBERED:
        memory.update(new)
    return [new[k] if value is None else value for k, value in zip(keys, found, strict=True)]


def _digest(encoded: bytes) -> bytes:
    return hashlib.blake2b(encoded, digest_size=8).digest()


def _joined(frame: pl.DataFrame) -> pl.DataFrame:
    """Events of a session without a user are those of the user it names, as in the live store: of
    the one before, else of the first."""
    if frame["user_id"].null_count() in (0, len(frame)):
        return frame
    user = pl.col("user_id").forward_fill().backward_fill().over("session_id")
    return frame.with_columns(user_id=user)


def _weighted(frame: pl.DataFrame, config: EventsConfig) -> pl.DataFrame:
    """Events that say something of taste, with their weight and the visitor they belong to."""
    weight = pl.col("type").replace_strict(config.weights, default=0.0, return_dtype=pl.Float64)
    rated = (pl.col("type") == "rating") & pl.col("value").is_not_null()
    weight = pl.when(rated).then(weight * pl.col("value") / config.rating_scale).otherwise(weight)
    visitor = pl.coalesce(pl.lit("u") + pl.col("user_id"), pl.lit("s") + pl.col("session_id"))
    return (
        frame.filter(pl.col("item_id").is_not_null())
        .with_columns(weight=weight, visitor=visitor)
        .filter(pl.col("weight").abs() >= MIN_WEIGHT)
        .with_row_index("order")
    )


def _without_cancelled(events: pl.DataFrame) -> pl.DataFrame:
    """Positive events after the last negative one of the same visitor and item."""
    last = (
        events.filter(pl.col("weight") < 0)
        .group_by("visitor", "item_id")
        .agg(cancelled=pl.col("order").max())
    )
    positive = events.filter(pl.col("weight") > 0)
    if last.is_empty():
        return positive
    return positive.join(last, on=["visitor", "item_id"], how="left", maintain_order="left").filter(
        pl.col("cancelled").is_null() | (pl.col("order") > pl.col("cancelled"))
    )


def _matrix(coded: pl.DataFrame, weight: str, items: int) -> sparse.csr_matrix:
    rows = coded["row"].to_numpy()
    # Visitors without a row of their own (a known user's sessions) are squeezed out.
    _, dense = np.unique(rows, return_inverse=True)
    matrix = sparse.csr_matrix(
        (coded[weight].to_numpy().astype(np.float32), (dense, coded["item"].to_numpy())),
        shape=(int(dense.max()) + 1, items),
        dtype=np.float32,
    )
    matrix.sum_duplicates()
    return matrix


def _sequences(
    coded: pl.DataFrame,
) -> tuple[Sequences, NDArray[np.bool_], NDArray[np.float64]]:
    """Sessions in the order of their ends, which of them are of strangers, and when each ended."""
    ordered = coded.with_columns(end=pl.col("order").max().over("session")).sort("end", "order")
    ends = ordered["end"].to_numpy()
    starts = np.flatnonzero(np.diff(ends, prepend=-1))
    sequences = Sequences(
        indptr=np.append(starts, len(ends)).astype(np.int64),
        items=ordered["item"].to_numpy().astype(np.int32),
    )
    # A session is somebody's from the event on that says so; an earlier one may not.
    known = np.maximum.reduceat(ordered["user"].is_not_null().to_numpy(), starts)
    return sequences, ~known, ordered["timestamp"].to_numpy()[sequences.indptr[1:] - 1]


def _history(coded: pl.DataFrame, users: int) -> History:
    entries = (
        coded.filter(pl.col("user").is_not_null())
        .group_by("user", "item")
        .agg(
            weight=pl.col("weight").sum(),
            last=pl.col("order").max(),
            bought=(pl.col("type") == "purchase").any(),
        )
        .sort("user", "last", descending=[False, True])
    )
    counts = np.bincount(entries["user"].to_numpy(), minlength=users)
    sessions = (
        coded.filter(pl.col("user").is_not_null())
        .group_by("user")
        .agg(count=pl.col("session").n_unique())
        .sort("user")
    )
    return History(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=entries["item"].to_numpy().astype(np.int32),
        weights=entries["weight"].to_numpy().astype(np.float32),
        bought=entries["bought"].to_numpy(),
        sessions=sessions["count"].to_numpy().astype(np.int32),
    )


def _repeat_purchase_rate(coded: pl.DataFrame) -> float:
    """Share of known users' (user, session, item) purchases whose item they had bought before."""
    bought = coded.filter((pl.col("type") == "purchase") & pl.col("user").is_not_null()).unique(
        ["user", "session", "item"]
    )
    if bought.is_empty():
        return 0.0
    return 1.0 - bought.select("user", "item").n_unique() / len(bought)
