"""Evaluate: replayed sessions through ``recommend``, four states of knowledge side by side.

All systems are the same function with the same bundle; they differ in what they are told:
``popular`` nothing; ``batch`` who the known user is, so all that training knew of them, but nothing
live; ``session`` the live session, but not whose it is; ``full`` all of it, which is what the API
answers. Items that the placement takes out of the full list are taken out of all four, so none
spends places on items that cannot be right, and all look for the same targets.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from recsys import rules
from recsys.bundle import Bundle
from recsys.config import Config, nearest
from recsys.evaluation.replay import PROTOCOLS, Sample, samples
from recsys.evaluation.split import EvaluationError, check_point_in_time
from recsys.logs import Log
from recsys.metrics import (
    METRICS,
    Estimate,
    Floats,
    bootstrap_means,
    coverage,
    difference,
    mean_popularity,
    relative_lift,
)
from recsys.recommend import MAX_N, Request, placement_of, recommend
from recsys.session import Session, Trail

SYSTEMS = ("popular", "batch", "session", "full")
BASELINE, BEST = SYSTEMS.index("batch"), SYSTEMS.index("full")

SLICE = 1024  # answers gathered before they are folded into metrics
REMEMBERED = 20_000  # lists without a live session that are kept for the next equal question

Rows = tuple[int, ...]  # item rows, best first


@dataclass(frozen=True)
class Lift:
    """What ``full`` adds to ``batch``: relative (0.5 is half as good again) and in the metric."""

    relative: Estimate
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {**self.relative.to_dict(), "difference": self.difference.to_dict()}


@dataclass(frozen=True)
class Report:
    """What an evaluation found; fractions, never percent.

    systems: system -> "metric@k" -> mean over samples. lift: "metric@k" -> what full adds to batch,
    with 95 % intervals. latency_us: microseconds of folding the session and ranking, for ``full``.
    sessions: how many gave samples. partial: interrupted; the figures hold for what was done.
    """

    protocol: str
    placement: str
    samples: int
    sessions: int
    systems: dict[str, dict[str, float]]
    lift: dict[str, Lift]
    latency_us: dict[str, float]
    bundle: str
    seed: int
    partial: bool = False
    notes: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        """Names of the figures, "metric@k"."""
        return list(self.systems[SYSTEMS[0]])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "lift": {name: lift.to_dict() for name, lift in self.lift.items()}}


def evaluate(
    bundle: Bundle,
    test: Log,
    *,
    protocol: str = "next-item",
    min_prefix: int = 1,
    at: Collection[int] = (20,),
    placement: str = "default",
    max_sessions: int | None = None,
    seed: int = 42,
    progress: Progress | None = None,
) -> Report:
    """Replay a test log event by event and score the lists of every system.

    min_prefix: positive item events before the first list of a session. at: the k of the metrics.
    max_sessions: evaluate that many sessions, drawn by ``seed``. An interrupt (Ctrl-C) ends early
    with a partial report. Raises EvaluationError, UnknownPlacementError.
    """
    check_question(bundle.config, protocol, min_prefix, at, placement, max_sessions)
    check_point_in_time(bundle, test)
    asker = _Asker(bundle, placement, max(at))
    tally = _Tally(bundle, sorted(set(at)))
    only = _drawn(test, max_sessions, seed)
    partial = False
    try:
        found = samples(test.frame, bundle.config, min_prefix, only)
        # One thread, as a server's worker has; BLAS threads cost more than they bring here.
        with threadpool_limits(1):
            for sample in _watched(found, len(test.frame), progress):
                session, fold_ns = _folded(sample, bundle)
                barred = asker.barred(session)
                if targets := PROTOCOLS[protocol](sample, barred):
                    tally.add(asker.answer(session, targets, barred, fold_ns))
    except KeyboardInterrupt:
        partial = True
    tally.fold()
    if not tally.slices:
        raise EvaluationError(_nothing(partial, protocol, min_prefix))
    notes = _notes(bundle, test, placement, only, tally)
    return tally.report(protocol, placement, seed, partial, notes)


def check_question(
    config: Config,
    protocol: str,
    min_prefix: int,
    at: Collection[int],
    placement: str,
    max_sessions: int | None = None,
) -> None:
    """Refuse what cannot be evaluated, before hours of training for it.

    Raises EvaluationError, UnknownPlacementError.
    """
    placement_of(config, placement)
    if protocol not in PROTOCOLS:
        known = list(PROTOCOLS)
        raise EvaluationError(
            f"unknown protocol {protocol!r}{nearest(protocol, known)}; known: {', '.join(known)}"
        )
    if not at or not all(1 <= k <= MAX_N for k in at):
        raise EvaluationError(f"every k of the metrics must be 1 to {MAX_N}, got {list(at)}")
    if min_prefix < 1:
        raise EvaluationError(f"the shortest prefix is 1 event, got {min_prefix}")
    if max_sessions is not None and max_sessions < 1:
        raise EvaluationError(f"at least 1 session must be evaluated, got {max_sessions}")


def report_table(report: Report) -> Group:
    """The figures as a table for a terminal; the notes are left to the caller."""
    kind = "interrupted after " if report.partial else ""
    head = (
        f"{report.protocol}, placement {report.placement}: {kind}{report.samples:,} lists in "
        f"{report.sessions:,} sessions, bundle {report.bundle}"
    )
    latency = ", ".join(f"{name} {value:.0f}" for name, value in report.latency_us.items())
    return Group(
        Text(head),
        _table(report),
        Text("lift: full over batch. popularity: mean share of an item in training"),
        Text(f"microseconds to fold a session and rank for it: {latency}"),
    )


class _Asker:
    """Asks ``recommend`` on behalf of every system."""

    def __init__(self, bundle: Bundle, placement: str, n: int) -> None:
        self.bundle = bundle
        self.request = Request(n=n, placement=placement)
        # Warms the code before it is timed, and refuses an unknown placement before any work.
        recommend(bundle, Session(), self.request)
        self.placement = bundle.config.placements[placement]
        ids = bundle.items.ids(range(len(bundle.items)))
        self.row_of = {item: row for row, item in enumerate(ids)}
        self.user_row = lru_cache(REMEMBERED)(self._user_row)
        self.without_session = lru_cache(REMEMBERED)(self._without_session)

    def barred(self, session: Session) -> tuple[str, ...]:
        """Ids that the placement keeps out of the full list, sorted."""
        user = self.user_row(session.user_id)
        ids = set(
            self.bundle.items.ids(rules.excluded(self.bundle, session, self.placement, user, ()))
        )
        # The rules speak in rows, so they are silent on items that training has never seen.
        strange = (item for item in session.current.types if item not in self.row_of)
        ids.update(item for item in strange if rules.taken_out(session, item, self.placement))
        return tuple(sorted(ids))

    def answer(
        self, session: Session, targets: Collection[str], barred: tuple[str, ...], fold_ns: int
    ) -> "_Answer":
        """The lists of all systems for one session. fold_ns: what folding it took."""
        start = perf_counter_ns()
        answer = recommend(self.bundle, session, self.request)
        elapsed = perf_counter_ns() - start
        full = tuple(self.row_of[item] for item in answer.item_ids)
        popular = self.without_session(None, barred)
        known = session.user_id if self.user_row(session.user_id) >= 0 else None
        return _Answer(
            session_id=session.session_id or "",
            user_id=session.user_id,
            known=known is not None,
            wanted=[self.row_of.get(item, -1) for item in targets],
            lists=(
                popular,
                self.without_session(known, barred) if known else popular,
                self._as_stranger(session, barred) if known or _has(session.past) else full,
                full,
            ),
            latency_ns=fold_ns + elapsed,
        )

    def _as_stranger(self, session: Session, barred: tuple[str, ...]) -> Rows:
        return self._list(replace(session, user_id=None, past=Trail()), barred)

    def _without_session(self, user_id: str | None, barred: tuple[str, ...]) -> Rows:
        return self._list(Session(user_id=user_id), barred)

    def _list(self, session: Session, barred: tuple[str, ...]) -> Rows:
        answer = recommend(self.bundle, session, replace(self.request, exclude=barred))
        return tuple(self.row_of[item] for item in answer.item_ids)

    def _user_row(self, user_id: str | None) -> int:
        return -1 if user_id is None else int(self.bundle.users.rows([user_id])[0])


@dataclass(frozen=True, slots=True)
class _Answer:
    """One sample: what was looked for (item rows, -1 unknown) and what each of SYSTEMS showed.

    known: training knew the user.
    """

    session_id: str
    user_id: str | None
    known: bool
    wanted: list[int]
    lists: tuple[Rows, ...]
    latency_ns: int


@dataclass(frozen=True)
class _Slice:
    """Answers as figures. values: float64 [samples, systems, columns]; the others one a sample."""

    values: Floats
    sessions: list[str]
    clusters: list[str]
    known: list[bool]
    wanted: list[int]
    unseen: list[int]
    latency_ns: list[int]


class _Tally:
    """Folds answers into figures a slice at a time, so that the lists need not be kept.

    columns: the names of the figures a sample has. shown: bool [systems, at, items].
    """

    def __init__(self, bundle: Bundle, at: list[int]) -> None:
        self.bundle = bundle
        self.at = at
        self.columns = [f"{name}@{k}" for k in at for name in (*METRICS, "popularity")]
        self.shown = np.zeros((len(SYSTEMS), len(at), len(bundle.items)), dtype=bool)
        self.slices: list[_Slice] = []
        self.pending: list[_Answer] = []

    def add(self, answer: _Answer) -> None:
        self.pending.append(answer)
        if len(self.pending) == SLICE:
            self.fold()

    def fold(self) -> None:
        """Turn the pending answers into a slice."""
        answers, self.pending = self.pending, []
        if not answers:
            return
        lists = _padded(answers, max(self.at))
        for j, k in enumerate(self.at):
            for system in range(len(SYSTEMS)):
                rows = lists[:, system, :k].ravel()
                self.shown[system, j, rows[rows >= 0]] = True
        self.slices.append(
            _Slice(
                values=self._values(answers, lists),
                sessions=[a.session_id for a in answers],
                clusters=[a.session_id if a.user_id is None else a.user_id for a in answers],
                known=[a.known for a in answers],
                wanted=[len(a.wanted) for a in answers],
                unseen=[a.wanted.count(-1) for a in answers],
                latency_ns=[a.latency_ns for a in answers],
            )
        )

    def report(
        self, protocol: str, placement: str, seed: int, partial: bool, notes: list[str]
    ) -> Report:
        """The means, lifts and percentiles of all slices."""
        values = np.concatenate([part.values for part in self.slices])
        clusters = np.unique(
            [c for part in self.slices for c in part.clusters], return_inverse=True
        )
        latency = np.array([ns for part in self.slices for ns in part.latency_ns]) / 1000
        return Report(
            protocol=protocol,
            placement=placement,
            samples=len(values),
            sessions=len({s for part in self.slices for s in part.sessions}),
            systems={
                system: self._system(s, values[:, s].mean(axis=0).tolist())
                for s, system in enumerate(SYSTEMS)
            },
            lift=self._lifts(values, clusters[1], seed),
            latency_us={f"p{p}": float(np.percentile(latency, p)) for p in (50, 90, 99)},
            bundle=self.bundle.version,
            seed=seed,
            partial=partial,
            notes=notes,
        )

    def _system(self, system: int, means: list[float]) -> dict[str, float]:
        figures = dict(zip(self.columns, means, strict=True))
        for j, k in enumerate(self.at):
            figures[f"coverage@{k}"] = coverage(self.shown[system, j])
        return figures

    def _lifts(self, values: Floats, clusters: NDArray[np.int64], seed: int) -> dict[str, Lift]:
        """Of the metrics of quality only: more coverage or popularity is not better in itself."""
        quality = [c for c, name in enumerate(self.columns) if name.split("@")[0] in METRICS]
        baseline, best = values[:, BASELINE][:, quality], values[:, BEST][:, quality]
        draws = bootstrap_means(np.hstack([baseline, best]), clusters, seed=seed)
        lifts = {}
        for j, column in enumerate(quality):
            means = draws[:, [j, j + len(quality)]]
            lifts[self.columns[column]] = Lift(
                relative=relative_lift(baseline[:, j], best[:, j], means),
                difference=difference(baseline[:, j], best[:, j], means),
            )
        return lifts

    def _values(self, answers: list[_Answer], lists: NDArray[np.int32]) -> Floats:
        """The figures of every answer: float64 [answers, systems, columns]."""
        wanted = np.array([len(a.wanted) for a in answers])
        hits = np.zeros(lists.shape, dtype=bool)
        for i, answer in enumerate(answers):
            # -1 stands for an unseen item in wanted and for padding in lists: never a hit.
            hits[i] = np.isin(lists[i], [row for row in answer.wanted if row >= 0])
        return np.stack(
            [self._figures(hits[:, s], wanted, lists[:, s]) for s in range(len(SYSTEMS))], axis=1
        )

    def _figures(
        self, hits: NDArray[np.bool_], wanted: NDArray[np.int64], lists: NDArray[np.int32]
    ) -> Floats:
        """The figures of one system, in the order of columns: float64 [answers, columns]."""
        counts = self.bundle.popularity.counts
        figures = []
        for k in self.at:
            figures += [metric(hits, wanted, k) for metric in METRICS.values()]
            figures.append(mean_popularity(lists[:, :k], counts))
        return np.stack(figures, axis=1)


def _padded(answers: list[_Answer], depth: int) -> NDArray[np.int32]:
    """Lists as int32 [answers, systems, depth], -1 where a list is shorter."""
    rows = np.full((len(answers), len(SYSTEMS), depth), -1, dtype=np.int32)
    for i, answer in enumerate(answers):
        for system, shown in enumerate(answer.lists):
            rows[i, system, : len(shown)] = shown
    return rows


def _drawn(test: Log, max_sessions: int | None, seed: int) -> frozenset[str] | None:
    """Ids of the sessions to evaluate, None for all."""
    ids = test.frame["session_id"].unique(maintain_order=True)
    if max_sessions is None or max_sessions >= len(ids):
        return None
    return frozenset(ids.sample(max_sessions, seed=seed))


def _watched(found: Iterator[Sample], rows: int, progress: Progress | None) -> Iterator[Sample]:
    """The samples, with a progress bar over the rows of the log."""
    if progress is None:
        yield from found
        return
    task = progress.add_task("evaluate", total=rows)
    for count, sample in enumerate(found):
        if count % 128 == 0:
            progress.update(task, completed=sample.moment.row)
        yield sample
    progress.update(task, completed=rows)


def _folded(sample: Sample, bundle: Bundle) -> tuple[Session, int]:
    """The session of a moment, and the nanoseconds that folding it took."""
    start = perf_counter_ns()
    session = sample.moment.session(bundle.config)
    return session, perf_counter_ns() - start


def _has(trail: Trail) -> bool:
    return bool(trail.items or trail.rejected)


def _nothing(partial: bool, protocol: str, min_prefix: int) -> str:
    if partial:
        return "interrupted before the first list was asked for"
    return (
        f"nothing to evaluate: no test session has an item for {protocol!r} to look for after "
        f"{min_prefix} positive item event(s); sessions of one item tell nothing"
    )


def _notes(
    bundle: Bundle, test: Log, placement: str, only: frozenset[str] | None, tally: _Tally
) -> list[str]:
    """What a reader must know to judge the figures."""
    known = [k for part in tally.slices for k in part.known]
    wanted = sum(sum(part.wanted) for part in tally.slices)
    unseen = sum(sum(part.unseen) for part in tally.slices)
    notes = [
        f"training knew the user of {np.mean(known):.1%} of the lists; "
        "for the others batch is the popular list",
        f"{unseen / wanted:.1%} of the items looked for never occurred in training and are misses",
        f"what placement {placement!r} takes out is out of the lists of all systems",
        "intervals: 1000 bootstrap draws; the lists of a user, or of a session without one, are "
        "drawn together",
    ]
    if only is not None:
        total = test.frame["session_id"].n_unique()
        notes.append(f"{len(only):,} of {total:,} test sessions were drawn")
    if "rows" in (bundle.facts.clock, test.clock):
        notes.append("no times in the log: that training precedes the test rests on its order")
    return notes


def _table(report: Report) -> Table:
    """One row a metric: lists of metrics grow, systems stay four, and terminals are 80 wide."""
    table = Table("metric", box=SIMPLE, pad_edge=False)
    for name in (*SYSTEMS, "lift", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in report.columns():
        figures = (f"{report.systems[system][name]:.4f}" for system in SYSTEMS)
        table.add_row(name, *figures, *_percent(report.lift.get(name)))
    return table


def _percent(lift: Lift | None) -> tuple[str, str]:
    """The relative lift and its interval, as far as they are defined."""
    if lift is None or lift.relative.value is None:
        return "–", ""
    value, low, high = lift.relative.value, lift.relative.low, lift.relative.high
    if low is None or high is None:
        return _signed(value), ""
    return _signed(value), f"{_signed(low)} … {_signed(high)}"


def _signed(share: float) -> str:
    return f"{share:+.0%}" if abs(share) >= 1 else f"{share:+.1%}"
