"""Training: from a log to a bundle, read top to bottom."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from recsys import features, ranking, retrieval, snapshot, terms
from recsys import index as faiss_index
from recsys.aggregate_log import LogFold, told_to_ranker
from recsys.bundle import Bundle, Facts, sealed
from recsys.config import Config, RankerConfig
from recsys.cores import cores
from recsys.evaluation.replay import PROTOCOLS, Sample, openings, samples
from recsys.evaluation.split import EvaluationError, Split, has_order, split
from recsys.events import InputError
from recsys.interactions import NoInteractionsError, fold
from recsys.logs import Log, log_from_frame
from recsys.models import (
    attributes,
    continuations,
    embedding,
    forest,
    item_knn,
    net,
    popularity,
    session_embedding,
    session_knn,
    transitions,
)
from recsys.models.forest import Forest
from recsys.models.net import Net
from recsys.newcomers import newcomers

# Logs whose sources are fitted at a time: each keeps a core busy and holds its models in memory.
FITS = 2
NO_ROWS: NDArray[np.int32] = np.zeros(0, dtype=np.int32)


def train(
    log: Log | pl.DataFrame | Any,
    config: Config | None = None,
    progress: Progress | None = None,
    seconds: dict[str, float] | None = None,
) -> Bundle:
    """Fit every model on a log and gather them in a bundle that is not published yet.

    log: a loaded Log, or a polars or pandas frame in log columns. seconds: filled with the time
    each stage took. Raises LogError, NoInteractionsError, FloatingPointError.
    """
    config = config or Config()
    log = log if isinstance(log, Log) else log_from_frame(log, config=config.events)
    config = config.settled(simultaneous=simultaneous(log), timed=log.clock == "time")
    stages = Stages(progress, seconds)
    with stages.beside(FITS) as beside:
        # The sources of the whole log are fitted while the ranker's tails are replayed.
        tails, reason = _tails_to_learn_from(log, config, stages, beside)
        fitting = beside.submit(fit_sources, log, config, stages, "")
        ranker = _fit_ranker(tails, config, stages) if tails else Ranker(reason)
        bundle = fitting.result()
    return completed(bundle, log, ranker, stages)


def completed(
    sources: Bundle,
    log: Log,
    ranker: "Ranker",
    stages: "Stages",
    prefix: str = "",
    line: Sequence[str] = (),
) -> Bundle:
    """The sources of a log and a ranker as one bundle. line: versions it was refitted from."""
    with stages.of(prefix + "recall"):
        metrics = {**_recall(sources), **sources.facts.metrics}
    with stages.of(prefix + "aggregates"):
        begun = snapshot.of_log(log, sources.config)
    facts = replace(
        sources.facts,
        metrics=metrics,
        features=ranker.features,
        openings=ranker.openings,
        ranker=ranker.summary,
        line=list(line),
    )
    return sealed(
        replace(sources, forest=ranker.forest, net=ranker.net, facts=facts, snapshot=begun)
    )


def _recall(bundle: Bundle) -> dict[str, float]:
    """What each index finds of the exact neighbours."""
    config, seed = bundle.config, bundle.config.training.seed
    depth = config.index.recall_at
    return {
        f"index_recall@{depth}": faiss_index.measured_recall(bundle.index, config.index, seed),
        f"session_index_recall@{depth}": faiss_index.measured_recall(
            bundle.session_index, config.session_index, seed
        ),
    }


def fit_sources(
    log: Log, config: Config, stages: "Stages", prefix: str, start: Bundle | None = None
) -> Bundle:
    """Everything but the ranker, as a bundle that ranks by the blend.

    start: a bundle of the same configuration and an earlier log, from which the embeddings go on.
    """
    seed, threads = config.training.seed, config.training.threads
    with stages.of(prefix + "interactions"):
        data = fold(log.frame, config.events)
        categories, known_terms = terms.fit(log.frame, data.items)
    items, sequences = len(data.items), data.sequences
    in_order = has_order(log)
    # Where each item stands in the bundle to start from.
    known = start.items.rows(data.items.ids(range(items))) if start else NO_ROWS
    with stages.of(prefix + "embedding", config.embedding.epochs) as tick:
        factors = _rows_of(start.embedding.item_factors, known) if start else None
        vectors = embedding.fit(data.by_visitor, config.embedding, seed, threads, tick, factors)
    with stages.of(prefix + "item_knn"):
        neighbours = item_knn.fit(data.by_session, config.item_knn, threads, in_order)
    with stages.of(prefix + "transitions"):
        table = transitions.fit(sequences, items, config.transitions)
    with stages.of(prefix + "continuations"):
        trail = continuations.fit(sequences, items, config.continuations)
    with stages.of(prefix + "session_knn"):
        sessions = session_knn.fit(sequences, items, config.session_knn)
    epochs = config.session_embedding.epochs
    with stages.of(prefix + "session_embedding", epochs) as tick:
        if start and len(start.session_embedding.item_vectors):
            fresh = int(np.searchsorted(data.ended, start.cutoff, side="right"))
            encoder = session_embedding.resume(
                start.session_embedding,
                known,
                sequences,
                fresh,
                config.session_embedding,
                seed,
                tick,
            )
        else:
            encoder = session_embedding.fit(sequences, items, config.session_embedding, seed, tick)
    with stages.of(prefix + "index"):
        index = faiss_index.build(vectors.item_factors, config.index, seed)
        session_index = faiss_index.build(encoder.item_vectors, config.session_index, seed)
    with stages.of(prefix + "attributes"):
        told = attributes.fit(encoder.item_vectors, data.popularity, data.items, log.items, seed)
    return Bundle(
        version="",
        config=config,
        facts=Facts(
            cutoff=float(log.frame["timestamp"].max()),  # type: ignore[arg-type]  # not empty
            clock=log.clock,
            counts={
                "events": len(log.frame),
                "users": len(data.users),
                "items": items,
                "sessions": data.sessions,
            },
            metrics={
                "repeat_purchase_rate": data.repeat_purchase_rate,
                "revisit_rate": data.revisit_rate,
                # How near attributes come to the vectors of items that were left out.
                **({} if np.isnan(told.cosine) else {"attribute_cosine": told.cosine}),
            },
            exclude_bought=data.repeat_purchase_rate < config.training.repeat_purchase_rate,
            ranker="blend",
            features={},
            in_order=in_order,
        ),
        items=data.items,
        users=data.users,
        history=data.history,
        popularity=popularity.fit(sequences, data.strangers, data.popularity),
        embedding=vectors,
        item_knn=neighbours,
        transitions=table,
        continuations=trail,
        session_knn=sessions,
        session_embedding=encoder,
        forest=forest.EMPTY,
        net=net.EMPTY,
        index=index,
        session_index=session_index,
        attribute_terms=told.terms,
        attributes=told.attributes,
        unseen_items=told.unseen,
        categories=categories,
        terms=known_terms,
    )


@dataclass(frozen=True)
class Ranker:
    """A forest and a net, the features' shares of the gain, and what was done and why."""

    summary: str
    forest: Forest = forest.EMPTY
    net: Net = net.EMPTY
    features: dict[str, float] = field(default_factory=dict)
    openings: int = 0


@dataclass(frozen=True)
class Examples:
    """Requests to learn from, one row a candidate.

    table: float32 [rows, features], columns as in names. labels: int8 [rows], 1 what was wanted.
    groups: int64 [requests], rows of each. openings: requests of a known user with no session yet.
    target: what was wanted, of PROTOCOLS.
    """

    names: list[str]
    table: NDArray[np.float32]
    labels: NDArray[np.int8]
    groups: NDArray[np.int64]
    openings: int
    target: str


class NothingToLearnError(InputError):
    """A log has no requests to train a ranker on; the text says why."""


@dataclass(frozen=True)
class Tail:
    """A part of a log's end, what precedes it, and the sources of that once they are fitted.

    hidden: items that nothing precedes it of, whatever the log says, see :func:`_hidden`.
    """

    name: str
    log: Log
    before: Log
    hidden: frozenset[str]
    sources: Future[Bundle]


def examples(log: Log, config: Config, stages: "Stages | None" = None) -> Examples:
    """What the ranker learns from: the log's tails, replayed point in time.

    Each meets sources fitted on what precedes it, through the same retrieval and features that
    will serve: nothing in it knew its future. Raises NothingToLearnError.
    """
    stages = stages or Stages()
    with stages.beside(FITS) as beside:
        return _examples(_fitting(log, config, stages, beside), config, stages)


def _fitting(log: Log, config: Config, stages: "Stages", beside: Executor) -> list[Tail]:
    """The tails to learn from, the latest first. Raises NothingToLearnError."""
    if not has_order(log):
        reason = "no times, and a session is a user: there is no order of events to learn from"
        raise NothingToLearnError(reason)
    try:
        parts = tails(log, config)
    except EvaluationError as error:
        raise NothingToLearnError(str(error)) from error
    _check_enough(sum(_most_requests(part.test.frame) for part in parts), config)
    found = []
    for k, part in enumerate(parts, 1):
        name, hidden = f"tail{k}_", _hidden(part.train, config, k)
        before = part.train
        if hidden:
            seen = before.frame.filter(~pl.col("item_id").is_in(list(hidden)).fill_null(False))
            before = replace(before, frame=seen)
        sources = beside.submit(fit_sources, before, config, stages, name)
        found.append(Tail(name, part.test, before, hidden, sources))
    return found


def _hidden(log: Log, config: Config, tail: int) -> frozenset[str]:
    """Some of the items that the shop tells of, which a tail's sources are not to know.

    A log's end holds few items that nobody has touched before and that come to be bought: where the
    ranker met these alone, it would learn that what only the shop speaks of never is. So it meets
    some others as if they were new (as the training of Volkovs, Yu & Poutanen, "DropoutNet", NIPS
    2017, leaves out what is known of some).
    """
    if not log.items or not config.ranker.hidden:
        return frozenset()
    names = log.frame["item_id"].drop_nulls().unique().sort()
    names = names.filter(names.is_in([*log.items]))
    rng = np.random.default_rng((config.training.seed, tail))
    return frozenset(names.filter(rng.random(len(names)) < config.ranker.hidden).to_list())


def _examples(tails: list[Tail], config: Config, stages: "Stages") -> Examples:
    """Of one tail after the other: in threads beside each other they would take longer, as most of
    a replay is Python's. Takes them from the list, so that no sources outlive their replay."""
    parts: list[Examples] = []
    while tails:
        tail = tails.pop(0)
        try:
            sources = tail.sources.result()
        except NoInteractionsError as error:
            # Only events without interest precede it; they may not precede the latest.
            if not parts:
                raise NothingToLearnError(str(error)) from error
            break
        expected = min(len(tail.log.frame), config.ranker.requests // config.ranker.tails)
        with stages.of(tail.name + "replay", expected) as tick:
            parts.append(replayed(sources, tail.log, config, tick, tail.before, tail.hidden))
    found = _joined(parts)
    _check_enough(len(found.groups), config)
    return found


def tails(log: Log, config: Config) -> list[Split]:
    """The log's end in equal parts, the latest first, each with all that precedes it; fewer than
    configured where too little does. Raises EvaluationError where there is none."""
    few = config.ranker.requests / 4 / max(1, len(log.frame))
    share = config.ranker.tail or min(max(few, 0.08 * config.ranker.tails), 0.25)
    share /= config.ranker.tails
    parts = [split(log, str(share))]
    try:
        while len(parts) < config.ranker.tails:
            parts.append(split(parts[-1].train, str(share / (1 - len(parts) * share))))
    except EvaluationError:
        pass
    return parts


def _joined(parts: list[Examples]) -> Examples:
    return Examples(
        parts[0].names,
        np.concatenate([part.table for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.groups for part in parts]),
        sum(part.openings for part in parts),
        parts[0].target,
    )


def fewest(config: Config) -> int:
    """Requests that a ranker needs. config: a settled one."""
    if config.ranker.min_requests is None:
        raise ValueError("ranker.min_requests: not settled; call Config.settled")
    return config.ranker.min_requests


def _check_enough(count: int, config: Config) -> None:
    if count < (needed := fewest(config)):
        raise NothingToLearnError(f"{count} requests to learn from, {needed} needed")


def _most_requests(frame: pl.DataFrame) -> int:
    """How many requests a log may hold: at every event but a session's last, and, of a known user,
    before the first."""
    known = frame.group_by("session_id").agg(pl.col("user_id").is_not_null().any())["user_id"]
    return len(frame) - int((~known).sum())


def learn(
    examples: Examples,
    config: Config,
    *,
    without: Collection[str] = (),
    stages: "Stages | None" = None,
) -> Ranker:
    """Train forest and net. without: features that they are not shown."""
    columns = [k for k, name in enumerate(examples.names) if name not in without]
    names = [examples.names[k] for k in columns]
    table = examples.table[:, columns] if without else examples.table
    count = len(examples.groups)
    leaves = max(4, min(config.ranker.leaves, count // config.ranker.leaf_requests))
    ranker, seed = replace(config.ranker, leaves=leaves), config.training.seed
    learned = table, examples.labels, examples.groups
    stages = stages or Stages()
    # BLAS with more threads would give another net, and take the cores of the trees.
    with threadpool_limits(1, "blas"), stages.beside(1) as beside:
        fitting = beside.submit(_fit_net, *learned, ranker, seed, stages)
        with stages.of("ranker", ranker.trees) as tick:
            trees, gain = forest.fit(*learned, names, ranker, seed, _threads(config), tick)
        smooth = fitting.result()
    made = f"forest of {ranker.trees} trees" + " and a net" * bool(len(smooth.features))
    summary = f"{made} from {count} requests ({examples.target})"
    return Ranker(summary, trees, smooth, gain, examples.openings)


def _threads(config: Config) -> int:
    """Of the trees: threads of theirs that share a core wait for each other by spinning, and the
    net keeps one core busy."""
    alone = not config.ranker.net_weight
    if config.training.threads or alone or os.environ.get("OMP_NUM_THREADS"):
        return config.training.threads
    return max(1, cores() - 1)


def _fit_net(
    table: NDArray[np.float32],
    labels: NDArray[np.int8],
    groups: NDArray[np.int64],
    config: RankerConfig,
    seed: int,
    stages: "Stages",
) -> Net:
    if not config.net_weight:
        return net.EMPTY
    with stages.of("net", net.steps(config, len(groups))) as tick:
        return net.fit(table, labels, groups, config, seed, tick)


def _rows_of(vectors: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """The vectors of rows, zero for row -1."""
    found = vectors[rows]
    found[rows < 0] = 0
    return found


def _tails_to_learn_from(
    log: Log, config: Config, stages: "Stages", beside: Executor
) -> tuple[list[Tail], str]:
    """The tails, none where the blend is to rank, and why it is."""
    if not config.ranker.enabled:
        return [], "blend: the ranker is off in the configuration"
    try:
        return _fitting(log, config, stages, beside), ""
    except NothingToLearnError as error:
        return [], f"blend: {error}"


def _fit_ranker(tails: list[Tail], config: Config, stages: "Stages") -> Ranker:
    """The ranker, or why there is none."""
    try:
        return learn(_examples(tails, config, stages), config, stages=stages)
    except NothingToLearnError as error:
        return Ranker(f"blend: {error}")


def replayed(
    head: Bundle,
    tail: Log,
    config: Config,
    tick: Callable[[], None] = lambda: None,
    before: Log | None = None,
    hidden: Collection[str] = (),
) -> Examples:
    """Features and labels of the candidates of sampled requests that hold something wanted.

    head: whose sources propose; it must not have seen the tail. config: a settled one. ``tick`` is
    called once a request. before: what precedes the tail, for aggregates that reach back. hidden:
    items that these are not told of.
    """
    names = dict.fromkeys(features.features_of(config, tail.frame.columns), 0.0)
    head = replace(head, facts=replace(head.facts, features=names))
    target = config.ranker.target
    rng = np.random.default_rng(config.training.seed)
    tables, labels, groups, opened = [], [], [], 0
    told = tail.frame
    if hidden:
        unsaid = pl.col("item_id").is_in(list(hidden))
        told = told.with_columns(item_id=pl.when(~unsaid).then("item_id"))
    fold = told_to_ranker(config, told, before.frame if before else None)
    for sample in _sampled(tail.frame, config, rng, fold):
        tick()
        session = sample.moment.session(config)
        who = retrieval.profile(head, session)
        known = retrieval.has_taste(who) or len(who.past[0])
        if not (known or retrieval.is_heard_of(head, who)):
            continue
        candidates = retrieval.retrieve(head, who, 0)
        wanted = PROTOCOLS[target](sample, ())
        right = np.isin(candidates.rows, head.items.rows(list(wanted)))
        table = ranking.feature_table(head, who, candidates)
        found = newcomers(head, who, candidates, table)
        table = table.T
        if target == "rest-of-session":
            # What is in the basket cannot come into it.
            others = ~np.isin(candidates.rows, who.sequence)
            right, table = right[others], table[others]
        if found:
            new = [name for name in found.names if target == "next-item" or name not in who.trail]
            at = [found.names.index(name) for name in new]
            right = np.concatenate([right, [name in wanted for name in new]])
            table = np.concatenate([table, found.table.T[at]])
        if right.any():
            tables.append(table)
            labels.append(right.astype(np.int8))
            groups.append(len(right))
            opened += sample.prefix == 0
    table = np.concatenate([np.zeros((0, len(names)), dtype=np.float32), *tables])
    return Examples(
        list(names),
        table,
        np.concatenate([np.zeros(0, dtype=np.int8), *labels]),
        np.array(groups, dtype=np.int64),
        opened,
        target,
    )


def _sampled(
    frame: pl.DataFrame, config: Config, rng: np.random.Generator, fold: LogFold | None = None
) -> Iterator[Sample]:
    """Requests of a tail: after events and, a fifth as many, of known users before their first."""
    wanted = config.ranker.requests / config.ranker.tails
    share, first_share = wanted / max(1, len(frame)), wanted / 5 / frame["session_id"].n_unique()
    again = fold.again() if fold else None
    after = samples(frame, config, fold=fold)
    yield from (sample for sample in after if rng.random() < share)
    first = openings(frame, config, again)
    yield from (sample for sample in first if rng.random() < first_share)


# Of a basket's events after the first at most this share have a time of their own: somebody looks
# something up at the till, a line is taken back.
TAKING_TIME = 0.1


def simultaneous(log: Log) -> bool:
    """Whether most events after the first of their session stand in one of which nearly all such
    have the time of another.

    Two clicks within a second are no basket: in a log of whole seconds they may be most.
    """
    sessions = (
        log.frame.filter(pl.col("item_id").is_not_null())
        .group_by("session_id")
        .agg(pl.len(), pl.col("timestamp").n_unique())
        .select(steps=pl.col("len").cast(pl.Int64) - 1, taking_time=pl.col("timestamp") - 1)
    )
    together = sessions.filter(pl.col("taking_time") <= TAKING_TIME * pl.col("steps"))
    return bool(2 * together["steps"].sum() > sessions["steps"].sum())


class Stages:
    """Progress and seconds of named stages, some of them beside each other."""

    def __init__(
        self, progress: Progress | None = None, seconds: dict[str, float] | None = None
    ) -> None:
        self.progress = progress
        self.seconds = {} if seconds is None else seconds
        self.stopped = False  # by an interrupt: whatever runs beside ends at its next step

    @contextmanager
    def beside(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Threads for stages beside each other: compiled code lets others run."""
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield pool
            except BaseException:
                self.stopped = True
                raise

    @contextmanager
    def of(self, name: str, steps: int = 1) -> Iterator[Any]:
        task = self.progress.add_task(name, total=steps) if self.progress else None

        def tick() -> None:
            if self.stopped:
                raise RuntimeError("training was interrupted")
            if self.progress and task is not None:
                self.progress.advance(task)

        start = perf_counter()
        if self.stopped:
            raise RuntimeError("training was interrupted")
        yield tick
        self.seconds[name] = round(perf_counter() - start, 3)
        if self.progress and task is not None:
            self.progress.update(task, completed=steps)
