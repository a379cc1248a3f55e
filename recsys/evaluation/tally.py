"""Tally: answers folded into figures a slice at a time, so that the lists need not be kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.metrics import BUCKETS, METRICS, diversity, mean_popularity, novelty, popularity_buckets

SLICE = 1024  # answers folded at a time

# Figures of one list beside METRICS: of what it is made of, not of how good it is.
MAKE_UP = ("popularity", "novelty", "diversity")


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample: what was looked for, and the list of every system in item rows, best first.

    cluster: the user, or the session without one; what is drawn together in a bootstrap. known:
    training knew the user. prefix: positive item events of the session so far. wanted: distinct
    rows. first: the one of them that came first. repeated: that item is in the session already.
    latency_ns: of the full list. Rows of items that training never saw are behind the others.
    """

    session: str
    cluster: str
    known: bool
    prefix: int
    wanted: list[int]
    first: int
    repeated: bool
    latency_ns: int
    lists: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Figures:
    """All answers as figures.

    names: of the systems. columns: of the figures of a list, "metric@k". values: float32 [samples,
    names, columns]. facts: a row a sample: session, cluster (0..n-1), known, prefix, wanted,
    unseen (of wanted), interest (in the first item wanted, in training, 0 if unseen), repeated,
    latency_ns. shown: bool [names, 2, at, items]: in a list of the first k for a stranger, a known
    user. buckets: int64 [names, 2, buckets], places of all lists by popularity. chosen: int64
    [buckets], the items wanted.
    """

    at: list[int]
    names: list[str]
    columns: list[str]
    values: NDArray[np.float32]
    facts: pl.DataFrame
    shown: NDArray[np.bool_]
    buckets: NDArray[np.int64]
    chosen: NDArray[np.int64]

    def of(self, name: str) -> NDArray[np.float32]:
        """Float32 [samples, columns] of one system."""
        return self.values[:, self.names.index(name)]

    @property
    def quality(self) -> list[str]:
        """The columns that say how good a list is."""
        return [c for c in self.columns if c.partition("@")[0] in METRICS]

    def choose(self, names: dict[str, tuple[str, str]]) -> "Figures":
        """Figures of systems put together: name -> who answers strangers, and known users."""
        known = self.facts["known"].to_numpy()
        pairs = [[self.names.index(n) for n in pair] for pair in names.values()]
        values = np.stack(
            [
                self.values[np.arange(len(known)), np.where(known, user, stranger)]
                for stranger, user in pairs
            ],
            axis=1,
        )
        parts = np.array(pairs)
        return replace(
            self,
            names=list(names),
            values=values,
            shown=self.shown[parts, [0, 1]],
            buckets=self.buckets[parts, [0, 1]],
        )


class Tally:
    """Takes answers, one a sample, and gives their figures. names: of the lists of an answer."""

    def __init__(self, bundle: Bundle, at: list[int], names: list[str]) -> None:
        self.at = at
        self.names = names
        self.columns = [f"{name}@{k}" for k in at for name in (*METRICS, *MAKE_UP)]
        self.counts = bundle.popularity.counts
        self.bucket = popularity_buckets(self.counts)
        self.vectors = item_vectors(bundle)
        self.shown = np.zeros((len(names), 2, len(at), len(bundle.items)), dtype=bool)
        self.buckets = np.zeros((len(names), 2, len(BUCKETS)), dtype=np.int64)
        self.chosen = np.zeros(len(BUCKETS), dtype=np.int64)
        self.values: list[NDArray[np.float32]] = []
        self.facts: list[pl.DataFrame] = []
        self.pending: list[Answer] = []

    def add(self, answer: Answer) -> None:
        self.pending.append(answer)
        if len(self.pending) == SLICE:
            self.fold()

    def fold(self) -> None:
        """Turn the pending answers into figures."""
        answers, self.pending = self.pending, []
        if not answers:
            return
        lists = self._padded(answers)
        self._count(answers, lists)
        self.values.append(self._values(answers, lists))
        self.facts.append(pl.DataFrame([self._facts(a) for a in answers]))

    def figures(self) -> Figures | None:
        """All that was added, None if nothing was."""
        self.fold()
        if not self.values:
            return None
        facts = pl.concat(self.facts)
        clusters = np.unique(facts["cluster"].to_numpy(), return_inverse=True)[1]
        return Figures(
            at=self.at,
            names=self.names,
            columns=self.columns,
            values=np.concatenate(self.values),
            facts=facts.with_columns(cluster=pl.Series(clusters)),
            shown=self.shown,
            buckets=self.buckets,
            chosen=self.chosen,
        )

    def _facts(self, answer: Answer) -> dict[str, Any]:
        return {
            "session": answer.session,
            "cluster": answer.cluster,
            "known": answer.known,
            "prefix": answer.prefix,
            "wanted": len(answer.wanted),
            "unseen": sum(row >= len(self.counts) for row in answer.wanted),
            "interest": float(self.counts[answer.first])
            if answer.first < len(self.counts)
            else 0.0,
            "repeated": answer.repeated,
            "latency_ns": answer.latency_ns,
        }

    def _padded(self, answers: list[Answer]) -> NDArray[np.int32]:
        """Lists as int32 [names, answers, depth], -1 where a list is shorter."""
        rows = np.full((len(self.names), len(answers), max(self.at)), -1, dtype=np.int32)
        for i, answer in enumerate(answers):
            for system, shown in enumerate(answer.lists):
                rows[system, i, : len(shown)] = shown
        return rows

    def _count(self, answers: list[Answer], lists: NDArray[np.int32]) -> None:
        """Which items were shown, and how popular they and the wanted ones are."""
        users = np.array([a.known for a in answers])
        for known in (0, 1):
            for system, held in enumerate(lists[:, users == known]):
                for j, k in enumerate(self.at):
                    rows = held[:, :k]
                    self.shown[system, known, j, rows[self._known(rows)]] = True
                self.buckets[system, known] += self._by_bucket(held)
        self.chosen += self._by_bucket(np.array([row for a in answers for row in a.wanted]))

    def _by_bucket(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(self.bucket[rows[self._known(rows)]], minlength=len(BUCKETS))

    def _known(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows are of items that training knew; -1 is no row."""
        return (rows >= 0) & (rows < len(self.counts))

    def _values(self, answers: list[Answer], lists: NDArray[np.int32]) -> NDArray[np.float32]:
        """The figures of every answer: float32 [answers, names, columns]."""
        wanted = np.array([len(a.wanted) for a in answers])
        hits = np.zeros(lists.shape, dtype=bool)
        for i, answer in enumerate(answers):
            hits[:, i] = np.isin(lists[:, i], answer.wanted)
        values = np.empty((len(answers), len(self.names), len(self.columns)), dtype=np.float32)
        for system, held in enumerate(lists):
            values[:, system] = self._figures(hits[system], wanted, held)
        return values

    def _figures(
        self, hits: NDArray[np.bool_], wanted: NDArray[np.int64], lists: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """The figures of one system, in the order of columns: float64 [answers, columns]."""
        figures = []
        for k in self.at:
            # What a list is made of, as far as training knows it.
            held = np.where(self._known(lists[:, :k]), lists[:, :k], -1)
            figures += [metric(hits, wanted, k) for metric in METRICS.values()]
            figures += [mean_popularity(held, self.counts), novelty(held, self.counts)]
            figures.append(diversity(held, self.vectors))
        return np.stack(figures, axis=1)


def item_vectors(bundle: Bundle) -> NDArray[np.float32]:
    """Unit vectors of items, float32 [items, d], by which lists are more or less alike."""
    _, vectors = bundle.likeness
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, np.float32(1e-12))
    return unit
