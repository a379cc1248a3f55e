"""Interactions: a log folded into weighted matrices, and the map from ids to int32 rows."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EventsConfig
from recsys.events import MIN_WEIGHT, InputError
from recsys.numbers import numbered, renumbered

Rows = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]

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
    session, all_sessions = numbered(frame["session_id"])
    columns = frame.select("user_id", "item_id", "type", "timestamp", "value", session=session)
    events = _weighted(_joined(columns), config)
    weight = events["weight"].to_numpy()
    session = events["session"].to_numpy()
    with ThreadPoolExecutor(2) as pool:
        of_items = pool.submit(numbered, events["item_id"])
        user, user_names = numbered(events["user_id"])
        item, item_names = of_items.result()
    if (weight <= 0).any():
        standing = _standing(_visitors(user, session), item, weight)
        events, weight, session = events.filter(standing), weight[standing], session[standing]
        item, item_names = _without_absent(item[standing], item_names)
        user, user_names = _without_absent(user[standing], user_names)
    if events.is_empty():
        raise NoInteractionsError(
            "the log has no event that shows interest in an item; "
            "check the type column and [events.weights]"
        )
    popularity = np.bincount(item, weight).astype(np.float32)  # ties are not for rounding to break
    known = pl.DataFrame({"name": item_names, "popularity": popularity}).with_row_index("row")
    ranked = known.sort("popularity", "name", descending=[True, False])["row"].to_numpy()
    by_id = user_names.arg_sort().to_numpy()
    item, user = _ranks(ranked)[item], _placed(user, _ranks(by_id))
    session, _ = renumbered(session)
    time, bought = events["timestamp"].to_numpy(), (events["type"] == "purchase").to_numpy()
    items = len(ranked)
    with ThreadPoolExecutor(2) as pool:  # compiled code lets others run
        of_sessions = pool.submit(_matrix, session, item, np.ones(len(item)), items)
        sequenced = pool.submit(_sequenced, session, item, user)
        by_visitor = _matrix(_visitors(user, session), item, weight, items)
        history = _history(by_visitor[: len(by_id)], user, item, session, weight, bought)
        by_session = of_sessions.result()
        indptr, in_order, known_sessions, last = sequenced.result()
    by_session.data[:] = 1
    return Interactions(
        items=IdMap.from_ids(item_names.gather(ranked).to_list()),
        users=IdMap.from_ids(user_names.gather(by_id).to_list()),
        by_visitor=by_visitor,
        by_session=by_session,
        sequences=Sequences(indptr, in_order),
        strangers=~known_sessions,
        ended=time[last],
        history=history,
        popularity=popularity[ranked],
        sessions=len(all_sessions),
        repeat_purchase_rate=_repeat_purchase_rate(user, session, item, bought),
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
    user = pl.col("user_id").forward_fill().backward_fill().over("session")
    return frame.with_columns(user_id=user)


def _weighted(frame: pl.DataFrame, config: EventsConfig) -> pl.DataFrame:
    """Events that say something of taste, with their weight."""
    weight = pl.col("type").replace_strict(config.weights, default=0.0, return_dtype=pl.Float64)
    rated = (pl.col("type") == "rating") & pl.col("value").is_not_null()
    weight = pl.when(rated).then(weight * pl.col("value") / config.rating_scale).otherwise(weight)
    said = pl.col("item_id").is_not_null() & (pl.col("weight").abs() >= MIN_WEIGHT)
    return frame.with_columns(weight=weight).filter(said)


def _visitors(user: Rows, session: Rows) -> Longs:
    """Known users, and each session of nobody known by itself."""
    users = int(user.max(initial=-1)) + 1
    return np.where(user >= 0, user, users + session.astype(np.int64))


def _standing(visitor: Longs, item: Rows, weight: Doubles) -> NDArray[np.bool_]:
    """Positive events after the last negative one of the same visitor and item."""
    pairs = visitor * (int(item.max()) + 1) + item
    negative = np.flatnonzero(weight < 0)
    standing = weight > 0
    if len(negative):
        cancelled, which = np.unique(pairs[negative], return_inverse=True)
        last = np.zeros(len(cancelled), dtype=np.int64)
        np.maximum.at(last, which, negative)
        at = np.minimum(np.searchsorted(cancelled, pairs), len(cancelled) - 1)
        standing &= (cancelled[at] != pairs) | (np.arange(len(pairs)) > last[at])
    return standing


def _without_absent(numbers: Rows, names: pl.Series) -> tuple[Rows, pl.Series]:
    numbers, were = renumbered(numbers)
    return numbers, names.gather(were)


def _ranks(order: NDArray[np.integer]) -> Rows:
    """Where each stands in an order."""
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return ranks


def _placed(numbers: Rows, ranks: Rows) -> Rows:
    """The rank of each number, -1 for -1."""
    return np.append(ranks, np.int32(-1))[numbers]


def _matrix(
    rows: NDArray[np.integer], item: Rows, weight: Doubles, items: int
) -> sparse.csr_matrix:
    """Summed weights, by the rows that there are."""
    # Visitors without a row of their own (a known user's sessions) are squeezed out.
    there = np.zeros(int(rows.max()) + 1, dtype=np.bool_)
    there[rows] = True
    dense = (np.cumsum(there, dtype=np.int32) - np.int32(1))[rows]
    matrix = sparse.csr_matrix(
        (weight.astype(np.float32), (dense, item)),
        shape=(int(np.count_nonzero(there)), items),
        dtype=np.float32,
    )
    matrix.sum_duplicates()
    return matrix


@njit(cache=True, nogil=True)
def _sequenced(
    session: Rows, item: Rows, user: Rows
) -> tuple[Longs, Rows, NDArray[np.bool_], Longs]:
    """Items of sessions in the order of their ends, which are somebody's, and where each ended."""
    sessions = session.max() + 1
    last, count = np.empty(sessions, np.int64), np.zeros(sessions, np.int64)
    for k in range(len(session)):
        last[session[k]] = k
        count[session[k]] += 1
    place, ends = np.empty(sessions, np.int64), np.empty(sessions, np.int64)
    indptr, n = np.zeros(sessions + 1, np.int64), 0
    for k in range(len(session)):
        if last[session[k]] == k:
            place[session[k]], ends[n] = n, k
            indptr[n + 1] = indptr[n] + count[session[k]]
            n += 1
    fill, items = indptr[:-1].copy(), np.empty(len(item), np.int32)
    # A session is somebody's from the event on that says so; an earlier one may not.
    known = np.zeros(sessions, np.bool_)
    for k in range(len(session)):
        at = place[session[k]]
        items[fill[at]] = item[k]
        fill[at] += 1
        known[at] |= user[k] >= 0
    return indptr, items, known, ends


def _history(
    by_user: sparse.csr_matrix,
    user: Rows,
    item: Rows,
    session: Rows,
    weight: Doubles,
    bought: NDArray[np.bool_],
) -> History:
    """by_user: which items each known user has, ascending."""
    indptr = by_user.indptr.astype(np.int64)
    first, others = _visits(user, session, len(indptr) - 1)
    again = pl.Series(others).unique().to_numpy() // (int(session.max()) + 1)
    return History(
        indptr,
        *_latest_first(indptr, by_user.indices, user, item, weight, bought),
        sessions=(first + np.bincount(again, minlength=len(first))).astype(np.int32),
    )


@njit(cache=True, nogil=True)
def _visits(user: Rows, session: Rows, users: int) -> tuple[Longs, Longs]:
    """Of how many sessions each user is the first, and the user, times the number of sessions, plus
    the session of events that are of another one."""
    first, counts = np.full(session.max() + 1, -1, np.int32), np.zeros(users, np.int64)
    others, n = np.empty(16, np.int64), 0
    for k in range(len(user)):
        if user[k] < 0 or first[session[k]] == user[k]:
            continue
        if first[session[k]] < 0:
            first[session[k]] = user[k]
            counts[user[k]] += 1
            continue
        if n == len(others):
            others = np.concatenate((others, np.empty(n, np.int64)))
        others[n] = np.int64(user[k]) * len(first) + session[k]
        n += 1
    return counts, others[:n].copy()


@njit(cache=True, nogil=True)
def _latest_first(
    indptr: Longs,
    items: Rows,
    user: Rows,
    item: Rows,
    weight: Doubles,
    bought: NDArray[np.bool_],
) -> tuple[Rows, NDArray[np.float32], NDArray[np.bool_]]:
    """Each user's items, the one touched last first, with summed weights and whether bought."""
    total, place = np.zeros(len(items)), np.full(len(items), -1, np.int64)
    of, was_bought = np.empty(len(user), np.int64), np.zeros(len(items), np.bool_)
    for k in range(len(user)):
        if user[k] >= 0:
            start, end = indptr[user[k]], indptr[user[k] + 1]
            of[k] = start + np.searchsorted(items[start:end], item[k])
            total[of[k]] += weight[k]
            was_bought[of[k]] |= bought[k]
    fill = indptr[:-1].copy()
    for k in range(len(user) - 1, -1, -1):
        if user[k] >= 0 and place[of[k]] < 0:
            place[of[k]] = fill[user[k]]
            fill[user[k]] += 1
    order = np.empty(len(items), np.int64)
    order[place] = np.arange(len(items))
    return items[order], total[order].astype(np.float32), was_bought[order]


def _repeat_purchase_rate(
    user: Rows, session: Rows, item: Rows, bought: NDArray[np.bool_]
) -> float:
    """Share of known users' (user, session, item) purchases whose item they had bought before."""
    of = bought & (user >= 0)
    purchases = pl.DataFrame({"user": user[of], "session": session[of], "item": item[of]}).unique()
    if purchases.is_empty():
        return 0.0
    return 1.0 - purchases.select("user", "item").n_unique() / len(purchases)
