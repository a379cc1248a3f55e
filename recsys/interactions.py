"""Interactions: a log folded into weighted matrices, and the map from ids to int32 rows."""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EventsConfig
from recsys.events import MIN_WEIGHT, InputError
from recsys.grouped import by_session, by_visitor
from recsys.numbers import numbered, renumbered

Rows = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]

# Ids and rows looked up lately that are remembered: visitors and lists name the same ones again.
REMEMBERED = 100_000
# Ids of a map that may all be remembered before somebody names them: as much is left for strangers.
HELD = REMEMBERED // 2
AT_A_TIME = 500  # of them

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

    def hold(self) -> None:
        """Remember all ids from now on, unless there are too many: none has to be looked up."""
        if len(self) > HELD:
            return
        for first in range(0, len(self), AT_A_TIME):
            rows = range(first, min(first + AT_A_TIME, len(self)))
            ids = self._read(rows)
            self._ids_of.update(zip(rows, ids, strict=True))
            self._rows_of.update(zip(ids, rows, strict=True))
            time.sleep(0)  # a server's other threads go on meanwhile

    # Empty at first, so that a map costs nothing to load.
    @cached_property
    def _rows_of(self) -> dict[str, int]:
        return {}

    @cached_property
    def _ids_of(self) -> dict[int, str]:
        return {}

    def _read(self, rows: Sequence[int]) -> list[str]:
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
    bought: bool, the item was bought (and not returned).
    their_visits: int64 [users + 1] into visits: int32, the rows of each user's sessions in
    Sequences, latest first.
    """

    indptr: NDArray[np.int64]
    items: Rows
    weights: NDArray[np.float32]
    bought: NDArray[np.bool_]
    their_visits: NDArray[np.int64]
    visits: Rows

    def of(self, user: int) -> slice:
        """The entries of one user row; none for -1."""
        return slice(int(self.indptr[user]), int(self.indptr[user + 1])) if user >= 0 else slice(0)

    def visits_of(self, user: int) -> Rows:
        """The rows of one user's sessions, latest first; none for -1."""
        if user < 0:
            return self.visits[:0]
        return self.visits[self.their_visits[user] : self.their_visits[user + 1]]

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

    @property
    def revisit_rate(self) -> float:
        """The share of a session's events after the first that are of an item it had already."""
        events = len(self.sequences.items)
        steps = events - (len(self.sequences.indptr) - 1)
        return (events - self.by_session.nnz) / max(1, steps)


class NoInteractionsError(InputError):
    """The log holds no event that says anything about taste."""


def fold(frame: pl.DataFrame, config: EventsConfig) -> Interactions:
    """Fold a log in standard columns, sorted by time, into interactions.

    The same rules as a live session: types weigh as configured, a negative event cancels what the
    visitor did before with that item. Raises NoInteractionsError.
    """
    with ThreadPoolExecutor(2) as pool:  # compiled code lets others run
        of_items = pool.submit(numbered, frame["item_id"])
        session, all_sessions = numbered(frame["session_id"])
        of_users = pool.submit(numbered, _users(frame["user_id"], session))
        weight = _weights(frame, config)
        (item, item_names), (user, user_names) = of_items.result(), of_users.result()
    bought = (frame["type"] == "purchase").fill_null(False).to_numpy()
    time = frame["timestamp"].to_numpy()
    standing = _standing(user, session, item, weight)
    if not standing.all():
        weight, bought, time = weight[standing], bought[standing], time[standing]
        session, _ = renumbered(session[standing])
        item, item_names = _without_absent(item[standing], item_names)
        user, user_names = _without_absent(user[standing], user_names)
    if not len(item):
        raise NoInteractionsError(
            "the log has no event that shows interest in an item; "
            "check the type column and [events.weights]"
        )
    popularity = np.bincount(item, weight).astype(np.float32)  # ties are not for rounding to break
    known = pl.DataFrame({"name": item_names, "popularity": popularity}).with_row_index("row")
    ranked = known.sort("popularity", "name", descending=[True, False])["row"].to_numpy()
    by_id = user_names.arg_sort().to_numpy()
    item, user = _ranks(ranked)[item], _placed(user, _ranks(by_id))
    items, users = len(ranked), len(by_id)
    with ThreadPoolExecutor(2) as pool:
        of_sessions = pool.submit(by_session, session, item, user, users)
        of_visitors = pool.submit(by_visitor, _visitors(user, session), item, weight, bought, users)
        item_map = IdMap.from_ids(item_names.gather(ranked).to_list())
        user_map = IdMap.from_ids(user_names.gather(by_id).to_list())
        sessions, visitors = of_sessions.result(), of_visitors.result()
    return Interactions(
        items=item_map,
        users=user_map,
        by_visitor=_matrix(visitors.weights, visitors.items, visitors.indptr, items),
        by_session=_matrix(
            np.ones(len(sessions.items), np.float32), sessions.items, sessions.indptr, items
        ),
        sequences=Sequences(sessions.starts, sessions.sequence),
        strangers=~sessions.known,
        ended=time[sessions.ends],
        history=History(
            visitors.indptr[: users + 1],
            visitors.latest,
            visitors.their_weights,
            visitors.bought,
            sessions.their_visits,
            sessions.visits,
        ),
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


def _users(user_id: pl.Series, session: Rows) -> pl.Series:
    """Events of a session without a user are those of the user it names, as in the live store: of
    the one before, else of the first."""
    if user_id.null_count() in (0, len(user_id)):
        return user_id
    frame = pl.DataFrame({"user_id": user_id, "session": session})
    user = pl.col("user_id").forward_fill().backward_fill().over("session")
    return frame.select(user).to_series()


def _weights(frame: pl.DataFrame, config: EventsConfig) -> Doubles:
    """What each event says of taste."""
    weight = pl.col("type").replace_strict(config.weights, default=0.0, return_dtype=pl.Float64)
    rated = (pl.col("type") == "rating") & pl.col("value").is_not_null()
    weight = pl.when(rated).then(weight * pl.col("value") / config.rating_scale).otherwise(weight)
    return frame.select(weight.fill_null(0.0)).to_series().to_numpy()


def _visitors(user: Rows, session: Rows) -> Longs:
    """Known users, and each session of nobody known by itself."""
    users = int(user.max(initial=-1)) + 1
    return np.where(user >= 0, user, users + session.astype(np.int64))


def _standing(user: Rows, session: Rows, item: Rows, weight: Doubles) -> NDArray[np.bool_]:
    """Positive events of items after the last negative one of the same visitor and item."""
    said = (item >= 0) & (np.abs(weight) >= MIN_WEIGHT)
    standing = said & (weight > 0)
    negative = np.flatnonzero(said & (weight < 0))
    if len(negative):
        pairs = _visitors(user, session) * (int(item.max()) + 2) + item
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
    weights: NDArray[np.float32], item: Rows, indptr: Longs, items: int
) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((weights, item, indptr), shape=(len(indptr) - 1, items))
    matrix.has_canonical_format = True
    return matrix


def _repeat_purchase_rate(
    user: Rows, session: Rows, item: Rows, bought: NDArray[np.bool_]
) -> float:
    """Share of known users' (user, session, item) purchases whose item they had bought before."""
    of = bought & (user >= 0)
    purchases = pl.DataFrame({"user": user[of], "session": session[of], "item": item[of]}).unique()
    if purchases.is_empty():
        return 0.0
    return 1.0 - purchases.select("user", "item").n_unique() / len(purchases)
