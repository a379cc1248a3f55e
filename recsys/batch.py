"""Batch: lists for many users at once, as `recommend` gives them to visitors with no session yet.

Where a placement ranks by the embedding alone, users are ranked together: the same lists for a part
of the time. Otherwise one after another, in as many processes as there is work for: most of a
request is Python's, which does one thing at a time.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from recsys import bundle as bundles
from recsys import retrieval, rules, topk
from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.config import Placement, nearest
from recsys.events import InputError
from recsys.filters import Beyond, Masks
from recsys.itemfiles import load_items
from recsys.items import Item
from recsys.models import embedding
from recsys.recommend import MAX_N, Recommendation, Request, filled, placement_of, recommend
from recsys.retrieval import SOURCES, Floats, Rows
from recsys.session import Session
from recsys.side_index import SideIndex
from recsys.topk import Longest
from recsys.userfiles import blocks

# One row an item, best first within a user: what SQL and data frames join without unpacking.
SCHEMA = {
    "user_id": pl.String(),
    "rank": pl.Int32(),
    "item_id": pl.String(),
    "score": pl.Float64(),
    "reason": pl.String(),
    "tier": pl.String(),
}
BLOCK = 512  # users ranked at a time
AT_ONCE = 4  # blocks that are not worth the seconds that other processes take to begin
AHEAD = 2  # blocks in work or waiting to be written, for each thread


@dataclass(frozen=True)
class Order:
    """What is asked for every user.

    folder: of the bundle. source: rank by it alone, in the place of the placement's ranking; "" for
    that. items: files of what the shop says of its items, as `recsys train` takes them; only what
    is visible by them is shown.
    """

    folder: Path
    n: int = 20
    placement: str = "default"
    source: str = ""
    items: tuple[Path, ...] = ()

    def batch(self) -> "Batch":
        """Ready to rank. Raises InputError."""
        if not 1 <= self.n <= MAX_N:
            raise InputError(f"--n: must be from 1 to {MAX_N}, got {self.n}")
        bundle = bundles.load(self.folder)
        placement_of(bundle.config, self.placement)
        return Batch.of(
            by_source(bundle, self.placement, self.source) if self.source else bundle,
            Request(self.n, self.placement),
            load_items(self.items),
        )


@dataclass(frozen=True)
class Batch:
    """A bundle and a request that is the same for all users. masks: of the catalogue, if any."""

    bundle: Bundle
    request: Request
    masks: Masks | None = field(default=None, repr=False)
    # Masks are not for several threads at once.
    alone: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def of(cls, bundle: Bundle, request: Request, items: dict[str, Item]) -> "Batch":
        """items: what the shop says of them, by id; none: all that the bundle knows are shown."""
        if not items:
            return cls(bundle, request)
        catalog = Catalog()
        for item_id, item in items.items():
            catalog.upsert(item_id, item)
        masks = Masks(catalog)
        told = replace(
            request,
            allowed=masks.of(bundle.items),
            beyond=Beyond(masks),
            unseen=SideIndex(catalog).of(bundle),
        )
        return cls(bundle, told, masks)

    @cached_property
    def placement(self) -> Placement:
        return placement_of(self.bundle.config, self.request.placement)

    @cached_property
    def together(self) -> bool:
        """Whether users are ranked together: by the embedding alone, which is searched exactly."""
        exact = self.bundle.index.approximate is None
        return exact and self.placement.ranking == "embedding" and not self.placement.diversity

    @cached_property
    def longest(self) -> Longest:
        return Longest.of(self.bundle.index.factors, self.request.allowed)

    @cached_property
    def projected(self) -> Floats:
        return embedding.projected(self.bundle.embedding)

    @cached_property
    def names(self) -> pl.Series:
        """The id of each item."""
        ids = self.bundle.items.ids(range(len(self.bundle.items)))
        return pl.Series("item_id", ids, dtype=pl.String)

    @cached_property
    def to_strangers(self) -> Recommendation:
        """The list of a user of whom nothing is known."""
        return self._asked(None)

    def prepared(self) -> "Batch":
        """The same, with all made that it makes but once: threads would make it twice."""
        if self.together:
            _ = self.longest, self.projected, self.names
        _ = self.to_strangers
        return self

    def lists(self, user_ids: Sequence[str]) -> pl.DataFrame:
        """A list for each user, one after another, in SCHEMA; a stranger's for those not known."""
        rows = self.bundle.users.rows(user_ids)
        if not self.together:
            asked = zip(user_ids, rows.tolist(), strict=True)
            return _frame(user_ids, [self._list(user, row) for user, row in asked])
        known = np.flatnonzero(rows >= 0)
        best, products = self.top(rows[known])
        whole = (best >= 0).all(axis=1)
        places = known[whole]
        if len(places) == len(user_ids):
            return self._of_rows(user_ids, best, products)
        # The few others are asked for one by one, and all put in the order of the users.
        others = np.setdiff1d(np.arange(len(user_ids)), places)
        theirs = [user_ids[k] for k in places.tolist()]
        more = [user_ids[k] for k in others.tolist()]
        found = [self._list(user_ids[k], int(rows[k])) for k in others.tolist()]
        frames = [self._of_rows(theirs, best[whole], products[whole]), _frame(more, found)]
        lengths = [np.full(len(places), self.request.n), np.array([len(a.item_ids) for a in found])]
        order = np.repeat(np.concatenate([places, others]), np.concatenate(lengths).astype(int))
        return pl.concat(frames)[np.argsort(order, kind="stable")]

    def top(self, users: Rows) -> tuple[Rows, Floats]:
        """The best items of known users by the embedding alone, ranked together: rows, -1 where
        there are too few, and products, both [users, n]. users: their rows."""
        bundle = self.bundle
        vectors = retrieval.fold_in_users(bundle, users, self.projected)
        starts, entries = bundle.history.of_all(users)
        barred = rules.out_of_history(bundle, self.placement, entries)
        if barred is None:
            starts, out = np.zeros_like(starts), retrieval.NO_ROWS
        else:
            out = bundle.history.items[entries[barred]]
            starts = np.concatenate([[0], np.cumsum(barred)])[starts]
        return topk.top(self.longest, vectors, starts, out, self.request.n)

    def _list(self, user_id: str, row: int) -> Recommendation:
        return self._asked(user_id) if row >= 0 else self.to_strangers

    def _asked(self, user_id: str | None) -> Recommendation:
        session = Session(user_id=user_id)
        answer = recommend(self.bundle, session, self.request)
        if self.masks is None:
            return answer
        with self.alone:
            return filled(answer, self.bundle, session, self.request, self.masks)

    def _of_rows(self, user_ids: Sequence[str], rows: Rows, products: Floats) -> pl.DataFrame:
        """Whole lists of users with a history, as `recommend` describes them."""
        count, n = rows.shape
        users = pl.Series(user_ids, dtype=pl.String)
        return pl.DataFrame(
            {
                "user_id": users.gather(np.repeat(np.arange(count), n)),
                "rank": np.tile(np.arange(1, n + 1, dtype=np.int32), count),
                "item_id": self.names.gather(rows.ravel()),
                "score": products.ravel().astype(np.float64),
                "reason": pl.repeat(self.placement.ranking, count * n, eager=True),
                "tier": pl.repeat("batch", count * n, eager=True),
            },
            SCHEMA,
        )


def by_source(bundle: Bundle, placement: str, source: str) -> Bundle:
    """The same bundle, in a placement of which one source ranks alone. Raises InputError."""
    if source not in SOURCES:
        known = list(SOURCES)
        raise InputError(
            f"--source: unknown source {source!r}{nearest(source, known)}; known: "
            f"{', '.join(known)}"
        )
    config = bundle.config.with_placement(placement, ranking=source, sources=())
    return replace(bundle, config=config)


def lists(
    order: Order, batch: Batch, user_ids: Iterable[str], threads: int
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Lists for users in their order, some at a time: how many users, and what
    :meth:`Batch.lists` gives; the same for any number of threads.

    batch: that of the order. No more than a few blocks of users are in memory at a time.
    """
    left = blocks(user_ids, BLOCK)
    few = list(islice(left, AT_ONCE + 1))
    parts = chain(few, left)
    # BLAS and FAISS are told not to share out one user's work, which would only cost.
    with threadpool_limits(1):
        if threads == 1 or len(few) == 1 or not (batch.together or len(few) > AT_ONCE):
            yield from ((len(block), batch.lists(block)) for block in parts)
        elif batch.together:
            pool = ThreadPoolExecutor(threads, initializer=threadpool_limits, initargs=(1,))
            yield from _in_order(pool, batch.prepared().lists, parts, AHEAD * threads)
        else:
            context = multiprocessing.get_context("spawn")
            processes = ProcessPoolExecutor(threads, context, _begin, (order,))
            yield from _in_order(processes, _lists_here, parts, AHEAD * threads)


def _in_order(
    pool: Executor,
    rank: Callable[[list[str]], pl.DataFrame],
    blocks: Iterable[list[str]],
    ahead: int,
) -> Iterator[tuple[int, pl.DataFrame]]:
    with _ended(pool):
        waiting = deque[tuple[int, Future[pl.DataFrame]]]()
        for block in blocks:
            waiting.append((len(block), pool.submit(rank, block)))
            if len(waiting) == ahead:
                count, found = waiting.popleft()
                yield count, found.result()
        for count, found in waiting:
            yield count, found.result()


@contextmanager
def _ended(pool: Executor) -> Iterator[None]:
    """Within; what has not begun by its end, as after an interrupt, never will."""
    try:
        yield
    finally:
        pool.shutdown(cancel_futures=True)


_HERE: list[Batch] = []  # of a worker process, the one that it ranks by


def _begin(order: Order) -> None:
    """In a worker process, first of all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this one when it is interrupted
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1)
    _HERE[:] = [order.batch()]


def _end_with_parent() -> None:
    """However the parent ends; a worker that waits for work would not know."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _lists_here(user_ids: list[str]) -> pl.DataFrame:
    return _HERE[0].lists(user_ids)


def _frame(user_ids: Sequence[str], answers: Sequence[Recommendation]) -> pl.DataFrame:
    counts = [len(answer.item_ids) for answer in answers]
    users = np.repeat(np.arange(len(answers)), counts)
    columns = {
        "user_id": pl.Series(user_ids, dtype=pl.String).gather(users),
        "rank": [rank for count in counts for rank in range(1, count + 1)],
        "item_id": [item for answer in answers for item in answer.item_ids],
        "score": [score for answer in answers for score in answer.scores],
        "reason": [reason for answer in answers for reason in answer.reasons],
        "tier": pl.Series([a.tier for a in answers], dtype=pl.String).gather(users),
    }
    return pl.DataFrame(columns, SCHEMA)
