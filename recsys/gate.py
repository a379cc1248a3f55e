"""Gate: what a newly trained bundle must show before it serves.

On a window of the log that none of them has seen, the candidate, the active bundle and two
yardsticks answer the same requests, each through ``recommend``. The yardsticks, popularity and
session-kNN, are fitted here on the log before the window, with default settings, and not taken from
the candidate: what it was trained on may be what is wrong with it.

What passes is published as it was judged, without the window: what was measured is what is served.
Trained once more on all of the log it would know the newest events, and nobody how good it is. So
the window is short, and it is in the next training. A refit, which is there to know the newest
events, is judged by a rehearsal (`recsys.refit`), and in its place among the active ones there is
the latest of its line that had not seen the window (:func:`unseen`).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recsys.aggregate_log import told_to_ranker
from recsys.bundle import Bundle, Facts
from recsys.config import Config
from recsys.evaluation.evaluate import cluster, drawn, looked_for, moments
from recsys.evaluation.findings import FEW_CLUSTERS
from recsys.evaluation.split import Split, check_order, has_order, split, when
from recsys.evaluation.systems import Panel
from recsys.events import LOG_ONLY_TYPES, InputError
from recsys.index import Index
from recsys.interactions import Sequences, fold
from recsys.logs import Log
from recsys.metrics import METRICS, UNDEFINED, Estimate, bootstrap_means, difference, mean
from recsys.models import (
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
from recsys.recommend import placement_of, recommend
from recsys.registry import Registry
from recsys.training import simultaneous

METRIC, AT = "ndcg", 20

# The window where none is asked for: the newest 5 % of what visitors did, but enough to tell
# bundles apart and no more than that takes, as what is in it is not in the bundle; of a small log a
# fifth at most.
SHARE, FEWEST_EVENTS, MOST_EVENTS, LARGEST_SHARE = 0.05, 2_000, 20_000, 0.2

# About so many requests of a window are judged, of sessions drawn whole: intervals of a hundredth,
# in a minute or two.
MOST_REQUESTS = 10_000
FEW_REQUESTS = 300  # below which nothing is judged: the interval would hold any difference

# Relative loss against the active bundle that is too much even where it may be chance. Few requests
# make an interval that holds nearly everything: by it alone each of many bundles could be somewhat
# worse than the one before, none of them provably.
TOLERANCE = 0.02

ROUNDING = 0.001  # of sums of event weights

LATER = "train again when the log has grown"
WITHOUT_WINDOW = (
    "the window is not in the bundle: what was measured is what is served; it is in the next "
    "training"
)


@dataclass(frozen=True)
class Comparison:
    """The candidate beside another system on the same requests, by the mean of the metric.

    visitors: users, and sessions without one, drawn whole for the 95 % intervals. difference: what
    the candidate has more, paired. All undefined where there were no requests.
    """

    requests: int = 0
    visitors: int = 0
    candidate: Estimate = UNDEFINED
    other: Estimate = UNDEFINED
    difference: Estimate = UNDEFINED

    @property
    def tells(self) -> bool:
        """Whether there were requests and visitors enough."""
        return self.requests >= FEW_REQUESTS and self.visitors >= FEW_CLUSTERS


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle may serve, and why.

    judged: False where the window is too small to tell; then only the first bundle of all passes.
    reasons: sentences; what it failed by, or what it passed by. window: its "first" and "last"
    event in Unix seconds (rows, without times), its "events" and "sessions". compared: by the name
    of the other system; empty where nothing was asked. notes: what a reader must know.
    """

    candidate: str
    active: str | None
    passed: bool
    judged: bool
    reasons: list[str]
    metric: str
    protocol: str
    placement: str
    window: dict[str, float]
    compared: dict[str, Comparison] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)


def held_out(log: Log, window: str | None = None) -> Split:
    """A log cut into what a candidate is trained on and the window that judges it.

    window: as in `recsys.evaluation.split.split`; None: the newest part with enough requests.
    Raises EvaluationError.
    """
    return split(log, window or f"{_share(log.frame):.6f}")


def _share(frame: pl.DataFrame) -> float:
    """The share of all events that the window takes."""
    asking = _asking(frame).arg_true()
    wanted = min(max(SHARE * len(asking), FEWEST_EVENTS), MOST_EVENTS)
    wanted = min(wanted, LARGEST_SHARE * len(asking))
    return 1 - int(asking[-round(wanted)]) / len(frame) if wanted >= 1 else LARGEST_SHARE


def _asking(frame: pl.DataFrame) -> pl.Series:
    """Which events may ask for a list: what was shown or searched for does not, and may be most."""
    return ~frame["type"].is_in(sorted(LOG_ONLY_TYPES))


def _judged(window: Log) -> int:
    """How many of the window's sessions are judged."""
    sessions = window.frame["session_id"].n_unique()
    asking = int(_asking(window.frame).sum())
    return sessions if asking <= MOST_REQUESTS else -(-MOST_REQUESTS * sessions // asking)


def judge(
    candidate: Bundle,
    active: Bundle | None,
    past: Log,
    window: Log,
    *,
    placement: str = "default",
    seed: int = 42,
    tick: Callable[[], None] = lambda: None,
) -> Verdict:
    """Judge a candidate on a window of the log. past: all of the log before the window.

    It is refused if it has seen the window; if it is worse than the active bundle, by the interval
    or by more than TOLERANCE; if it is not better than popularity and session-kNN, by the interval.
    Where the order of a session's events tells nothing, as in baskets, session-kNN is at a loss
    itself, and no worse than it will do. ``tick`` is called once a request. Raises EvaluationError
    where the window is not later than ``past``, UnknownPlacementError.

    An active bundle that has seen part of the window is compared on the sessions that began after
    that part; where they are too few, the candidate waits. A candidate that has seen the window is
    known by its cut-off, whatever that says by items with more interest in it than ``past`` holds.
    """
    check_order(past, window)
    yardsticks = fit_yardsticks(past, candidate.config, placement)
    verdict = Verdict(
        candidate=candidate.version,
        active=active.version if active else None,
        passed=False,
        judged=True,
        reasons=_seen(candidate, yardsticks, window),
        metric=f"{METRIC}@{AT}",
        protocol=candidate.config.ranker.target,
        placement=placement,
        window=_extent(window),
        notes=_notes(window),
    )
    if verdict.reasons:
        return verdict
    panel = Panel(yardsticks, placement, AT, ["session_knn"])
    others = {"popularity": yardsticks, "session-kNN": panel.told_all[0]}
    if active is not None:
        others["active"] = active
    answers = _answers(candidate, list(others.values()), panel, past, window, seed, tick)
    compared = {
        name: answers.compared(k, _fair(answers, bundle, window), seed)
        for k, (name, bundle) in enumerate(others.items(), 1)
    }
    in_order = yardsticks.config.session.order == "kept"
    return dataclasses.replace(verdict, compared=compared, **_found(compared, active, in_order))


def judge_by(cut: Split, candidate: Bundle, registry: Registry, **options: Any) -> Verdict:
    """Judge a candidate, trained on ``cut.train``, on ``cut.test`` against the active bundle.

    Where that is a refit that has seen the window, the latest of its line that has not stands in
    for it. An active bundle that cannot be read cannot serve either: it is as if there were none,
    and a note says so. options: as of :func:`judge`.
    """
    active, notes = None, list(cut.notes)
    try:
        active = unseen(registry, cut.test) or (registry.load() if registry.active() else None)
    except InputError as error:
        notes.append(f"the active bundle is not compared: {error}")
    verdict = judge(candidate, active, cut.train, cut.test, **options)
    return dataclasses.replace(verdict, notes=[*notes, *verdict.notes])


def unseen(registry: Registry, window: Log) -> Bundle | None:
    """The latest bundle of the active one's line that has seen nothing of a window, if any.

    Raises RegistryError or BundleError.
    """
    first = float(window.frame["timestamp"][0])
    for version in registry.line():
        if registry.manifest(version)["facts"]["cutoff"] < first:
            return registry.load(version)
    return None


def fit_yardsticks(past: Log, config: Config, placement: str) -> Bundle:
    """Popularity and session-kNN of a log as a bundle of nothing else; ranked by popularity.

    config: of the candidate. What it says of events, sessions and the placement holds here too.
    """
    asked = dataclasses.replace(placement_of(config, placement), ranking="popular", sources=())
    config = Config(
        events=config.events, session=config.session, placements={placement: asked}
    ).settled(simultaneous=simultaneous(past))
    data = fold(past.frame, config.events)
    items, repeat_rate = len(data.items), data.repeat_purchase_rate
    nothing = Sequences(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    zeros = np.zeros((items, 1), dtype=np.float32)
    encoder = session_embedding.fit(nothing, items, config.session_embedding, seed=0)
    return Bundle(
        version="yardsticks",
        config=config,
        facts=Facts(
            cutoff=float(past.frame["timestamp"].max()),  # type: ignore[arg-type]  # not empty
            clock=past.clock,
            counts={},
            metrics={},
            exclude_bought=repeat_rate < config.training.repeat_purchase_rate,
            ranker="one source alone",
            features={},
            in_order=has_order(past),
        ),
        items=data.items,
        users=data.users,
        history=data.history,
        popularity=popularity.fit(data.sequences, data.strangers, data.popularity),
        embedding=embedding.Embedding(zeros, np.zeros((0, 0), dtype=np.float32), embedding.NONE),
        item_knn=item_knn.ItemKnn(np.zeros(items + 1, np.int64), nothing.items, zeros[:0, 0]),
        transitions=transitions.fit(nothing, items, config.transitions),
        continuations=continuations.fit(nothing, items, config.continuations),
        session_knn=session_knn.fit(data.sequences, items, config.session_knn),
        session_embedding=encoder,
        forest=forest.EMPTY,
        net=net.EMPTY,
        index=Index(zeros),
        session_index=Index(encoder.item_vectors),
    )


@dataclass(frozen=True)
class _Answers:
    """What the lists of all systems are worth, the candidate's first.

    values: float64 [requests, systems]. visitors: int64 [requests], who are drawn together. begun:
    float64 [requests], when the session of each began.
    """

    values: NDArray[np.float64]
    visitors: NDArray[np.int64]
    begun: NDArray[np.float64]

    def compared(self, other: int, rows: NDArray[np.bool_], seed: int) -> Comparison:
        """The candidate beside another system, on some of the requests."""
        if not rows.any():
            return Comparison()
        ours, theirs = self.values[rows][:, [0, other]].T
        visitors, dense = np.unique(self.visitors[rows], return_inverse=True)
        draws = bootstrap_means(np.stack([theirs, ours], axis=1), dense, seed=seed)
        return Comparison(
            requests=len(ours),
            visitors=len(visitors),
            candidate=mean(ours, draws[:, 1]),
            other=mean(theirs, draws[:, 0]),
            difference=difference(theirs, ours, draws),
        )


def _answers(
    candidate: Bundle,
    others: list[Bundle],
    panel: Panel,
    past: Log,
    window: Log,
    seed: int,
    tick: Callable[[], None],
) -> _Answers:
    """Ask all systems at every moment of the window, or of as many sessions as are judged.

    panel: of the yardsticks. What is looked for, and what the placement takes out of all lists,
    follows from them: nothing that a candidate has learned can spare it a question.
    """
    config, yardsticks = candidate.config, panel.bundle
    protocol, asked = config.ranker.target, (candidate, *others)
    # Bundles may declare different aggregates.
    folds = [told_to_ranker(bundle.config, window.frame, past.frame) for bundle in asked]
    started = window.frame.group_by("session_id").agg(pl.col("timestamp").min())
    starts = dict(started.iter_rows())
    values, visitors, begun = [], [], []
    with threadpool_limits(1):
        for sample in moments(window, config, protocol, 1, drawn(window, _judged(window), seed)):
            tick()
            session = sample.moment.session(yardsticks.config)
            barred, targets = looked_for(panel, sample, session, protocol)
            if not targets:
                continue
            request = dataclasses.replace(panel.request, exclude=barred)
            hits = np.zeros((len(asked), AT), dtype=bool)
            for k, (bundle, fold) in enumerate(zip(asked, folds, strict=True)):
                known = len(past.frame) + sample.moment.known
                moment = dataclasses.replace(sample.moment, fold=fold, known=known)
                shown = recommend(bundle, moment.session(bundle.config), request).item_ids
                hits[k, : len(shown)] = [item in targets for item in shown]
            values.append(METRICS[METRIC](hits, np.full(len(asked), len(targets)), AT))
            visitors.append(cluster(session))
            begun.append(starts[sample.moment.event.session_id])
    return _Answers(
        np.array(values).reshape(-1, len(asked)),
        np.unique(np.array(visitors, dtype=np.str_), return_inverse=True)[1],
        np.array(begun, dtype=np.float64),
    )


def _fair(answers: _Answers, bundle: Bundle, window: Log) -> NDArray[np.bool_]:
    """Which requests are of sessions that began after all that a bundle has seen."""
    if _rows_only(bundle, window):
        return np.ones(len(answers.begun), dtype=np.bool_)
    return answers.begun > bundle.cutoff


def _rows_only(bundle: Bundle, window: Log) -> bool:
    """Whether the cut-off of a bundle says nothing of a window."""
    return "rows" in (bundle.facts.clock, window.clock)


def _seen(candidate: Bundle, yardsticks: Bundle, window: Log) -> list[str]:
    """How it shows that a candidate has seen the window, if it does."""
    found, first = [], float(window.frame["timestamp"][0])
    if candidate.cutoff >= first and not _rows_only(candidate, window):
        found.append(
            f"trained on the future: on events up to {when('time', candidate.cutoff)}, but the "
            f"window begins at {when('time', first)}"
        )
    rows = yardsticks.items.rows(candidate.items.ids(range(len(candidate.items))))
    before = np.append(yardsticks.popularity.counts, np.float32(0))[rows]  # row -1 has none
    more = int((candidate.popularity.counts > before * (1 + ROUNDING) + ROUNDING).sum())
    if more:
        found.append(
            f"trained on the future: {more:,} of its items have more events in it than the log has "
            "before the window"
        )
    return found


def _found(
    compared: dict[str, Comparison], active: Bundle | None, in_order: bool
) -> dict[str, Any]:
    """What comparisons say: passed, judged and reasons of a verdict."""
    whole = compared["popularity"]
    if not whole.tells:
        reason = f"not judged: the window has {_few(whole)}"
        if active is None:
            return {"passed": True, "judged": False, "reasons": [f"{reason}; no bundle serves yet"]}
        return {
            "passed": False,
            "judged": False,
            "reasons": [f"{reason}; hold out more, or {LATER}"],
        }
    rules = [
        better(whole, "popularity"),
        (better if in_order else not_below)(compared["session-kNN"], "session-kNN"),
    ]
    if active is not None:
        rules.insert(0, not_worse(compared["active"], active))
    failed = [sentence for passed, sentence in rules if not passed]
    return {"passed": not failed, "reasons": failed or [sentence for _, sentence in rules]}


def not_worse(comparison: Comparison, active: Bundle) -> tuple[bool, str]:
    """Whether a candidate may follow the active bundle, and a sentence."""
    name = f"the active bundle {active.version}"
    if not comparison.tells:
        seen = when(active.facts.clock, active.cutoff)
        return False, (
            f"not compared with {name}: it has seen the log up to {seen}, and the window has "
            f"{_few(comparison)} later than that; {LATER}"
        )
    passed, sentence = not_below(comparison, name)
    lost = -_numbers(comparison.difference)[0]
    if passed and lost > TOLERANCE * _numbers(comparison.other)[0]:
        return False, f"{sentence}, which may be chance, but is more than {TOLERANCE:.0%} of it"
    return passed, sentence


def not_below(comparison: Comparison, name: str) -> tuple[bool, str]:
    """Whether the interval does not lie below another system, and a sentence."""
    _, _, high = _numbers(comparison.difference)
    passed = high >= 0
    return passed, f"{'not ' if passed else ''}worse than {name}: {_words(comparison)}"


def better(comparison: Comparison, name: str) -> tuple[bool, str]:
    """Whether the interval lies above another system, and a sentence."""
    _, low, _ = _numbers(comparison.difference)
    passed = low > 0
    return passed, f"{'' if passed else 'not '}better than {name}: {_words(comparison)}"


def _words(comparison: Comparison) -> str:
    value, low, high = _numbers(comparison.difference)
    ours, theirs = _numbers(comparison.candidate)[0], _numbers(comparison.other)[0]
    return (
        f"{METRIC}@{AT} {ours:.4f} against {theirs:.4f}, {value:+.4f} [{low:+.4f}, {high:+.4f}] "
        f"in {comparison.requests:,} requests"
    )


def _few(comparison: Comparison) -> str:
    return (
        f"{comparison.requests:,} requests of {comparison.visitors:,} visitors, at least "
        f"{FEW_REQUESTS} of {FEW_CLUSTERS} are needed,"
    )


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    """Value, low and high of an estimate of requests that there were."""
    value, low, high = dataclasses.astuple(estimate)
    return value, low, high


def _extent(window: Log) -> dict[str, float]:
    times = window.frame["timestamp"]
    return {
        "first": float(times[0]),
        "last": float(times[-1]),
        "events": len(times),
        "sessions": window.frame["session_id"].n_unique(),
    }


def _notes(window: Log) -> list[str]:
    notes = [WITHOUT_WINDOW]
    sessions, judged = window.frame["session_id"].n_unique(), _judged(window)
    if judged < sessions:
        notes.append(f"{judged:,} of the window's {sessions:,} sessions were drawn")
    if window.clock == "rows":
        notes.append("no times in the log: that the window is later rests on the order of its rows")
    return notes
