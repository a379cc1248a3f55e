"""Evaluate: replayed sessions through ``recommend``, states of knowledge side by side.

replay.py asks after every event, systems.py says who answers and what each is told, tally.py turns
lists into figures, findings.py figures into what a report.py says.
"""

from collections.abc import Collection, Iterator, Sequence
from time import perf_counter_ns

import numpy as np
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from recsys.aggregate_log import LogFold, told_to_ranker
from recsys.bundle import Bundle
from recsys.config import ORDER_IGNORED, Config, nearest
from recsys.evaluation import findings
from recsys.evaluation.freshness import check_clock, parse_delays
from recsys.evaluation.replay import PROTOCOLS, Sample, people, samples
from recsys.evaluation.report import Report
from recsys.evaluation.split import EvaluationError, check_point_in_time
from recsys.evaluation.systems import ON_REQUEST, SYSTEMS, Panel, check_systems
from recsys.evaluation.tally import Answer, Figures, Tally
from recsys.logs import Log
from recsys.recommend import MAX_N, placement_of
from recsys.session import Session


def evaluate(
    bundle: Bundle,
    test: Log,
    *,
    protocol: str = "next-item",
    min_prefix: int = 1,
    at: Collection[int] = (20,),
    placement: str = "default",
    systems: Collection[str] = (),
    freshness: Collection[str] = (),
    slices: bool = False,
    max_sessions: int | None = None,
    seed: int = 42,
    progress: Progress | None = None,
    before: Log | None = None,
) -> Report:
    """Replay a test log event by event and score the lists of every system.

    min_prefix: positive item events before the first list of a session. at: the k of the metrics.
    systems: asked beside popular, batch, session and full: "blend", sources by name, "all".
    freshness: delays ("0s", "5m", "1d") at which full is asked too. slices: by session length,
    visitor, item. max_sessions: evaluate that many sessions, drawn by ``seed``. before: the log
    that precedes the test's, for aggregates that reach back into it. An interrupt (Ctrl-C) ends
    early with a partial report. Raises EvaluationError, UnknownPlacementError.
    """
    check_question(
        bundle.config, protocol, min_prefix, at, placement, max_sessions, systems, freshness
    )
    delays = parse_delays(freshness) if freshness else {}
    if delays:
        check_clock((bundle.facts.clock, test.clock))
    check_point_in_time(bundle, test)
    extra = [name for name in ON_REQUEST if name in systems or "all" in systems]
    late = [seconds for seconds in delays.values() if seconds]
    fold = told_to_ranker(bundle.config, test.frame, before.frame if before else None)
    panel = Panel(bundle, placement, max(at), extra, late, fold)
    tally = Tally(bundle, sorted(set(at)), panel.names)
    only = drawn(test, max_sessions, seed)
    partial = False
    try:
        found = moments(test, bundle.config, protocol, min_prefix, only, fold)
        # One thread, as a server's worker has; BLAS threads cost more than they bring here.
        with threadpool_limits(1):
            for sample in _watched(found, len(test.frame), progress):
                if answer := _answer(panel, sample, protocol):
                    tally.add(answer)
    except KeyboardInterrupt:
        partial = True
    gathered = tally.figures()
    if gathered is None:
        raise EvaluationError(_nothing(partial, protocol, min_prefix))
    batch = findings.strongest_batch(gathered)
    figures = findings.with_batch(gathered, batch, extra, delays)
    reported = [*SYSTEMS, *extra]
    silent = findings.silent(figures, extra)
    latency = figures.facts["latency_ns"].to_numpy() / 1000
    return Report(
        protocol=protocol,
        placement=placement,
        samples=len(figures.facts),
        sessions=figures.facts["session"].n_unique(),
        clusters=figures.facts["cluster"].n_unique(),
        systems={name: findings.means(figures, name) for name in reported},
        lift=findings.lifts(figures, "batch", "full", seed),
        latency_us={f"p{p}": float(np.percentile(latency, p)) for p in (50, 90, 99)},
        batch=batch,
        calibration=findings.calibration(figures, reported),
        bundle=bundle.version,
        seed=seed,
        clock="rows" if "rows" in (bundle.facts.clock, test.clock) else "time",
        slices=findings.slices(figures, seed) if slices else {},
        freshness=findings.freshness(figures, delays, seed),
        partial=partial,
        silent=silent,
        notes=_notes(bundle, test, protocol, placement, only, figures, silent),
        warnings=findings.warnings(figures, len(bundle.items)),
    )


def check_question(
    config: Config,
    protocol: str,
    min_prefix: int,
    at: Collection[int],
    placement: str,
    max_sessions: int | None = None,
    systems: Collection[str] = (),
    freshness: Collection[str] = (),
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
    check_systems([name for name in systems if name != "all"])
    parse_delays(freshness)


def check_moments(test: Log, config: Config, protocol: str, min_prefix: int) -> None:
    """Refuse a log in which there is nothing to ask, before training for it.

    Raises EvaluationError.
    """
    if next(moments(test, config, protocol, min_prefix, None), None) is None:
        raise EvaluationError(_nothing(False, protocol, min_prefix))


def moments(
    test: Log,
    config: Config,
    protocol: str,
    min_prefix: int,
    only: Collection[str] | None,
    fold: LogFold | None = None,
) -> Iterator[Sample]:
    """The moments of a log at which a protocol asks for lists. only: ids of sessions, None: all.
    fold: of aggregates, as in `recsys.evaluation.replay`."""
    if protocol == "user":
        return people(test.frame, config, only)
    return samples(test.frame, config, min_prefix, only, fold)


def looked_for(
    panel: Panel, sample: Sample, session: Session, protocol: str
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Ids barred from the lists of a moment, and those looked for, maybe none."""
    if protocol == "user" and not panel.knows(session.user_id):
        return (), frozenset()  # of a stranger nothing is known before the first event
    barred = panel.barred(session)
    return barred, PROTOCOLS[protocol](sample, barred)


def cluster(session: Session) -> str:
    """Whose lists are drawn together in a bootstrap: a user's, or a session's without one."""
    return f"s{session.session_id or ''}" if session.user_id is None else f"u{session.user_id}"


def _answer(panel: Panel, sample: Sample, protocol: str) -> Answer | None:
    """What all systems answer at one moment; None where there is nothing to look for."""
    start = perf_counter_ns()
    session = sample.moment.session(panel.bundle.config)
    folded = perf_counter_ns() - start
    barred, targets = looked_for(panel, sample, session, protocol)
    if not targets:
        return None
    lists, ranked = panel.lists(sample, session, barred)
    first = next(item for item in sample.upcoming if item in targets)
    session_id = session.session_id or ""
    return Answer(
        session=session_id,
        cluster=cluster(session),
        known=panel.knows(session.user_id),
        prefix=sample.prefix,
        wanted=[panel.row(item) for item in targets],
        first=panel.row(first),
        repeated=first in sample.seen,
        latency_ns=folded + ranked,
        lists=lists,
    )


def drawn(test: Log, max_sessions: int | None, seed: int) -> frozenset[str] | None:
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


def _nothing(partial: bool, protocol: str, min_prefix: int) -> str:
    if partial:
        return "interrupted before the first list was asked for"
    if protocol == "user":
        return (
            "nothing to evaluate: protocol 'user' asks for a list of each known user, and no event "
            "of an item in the test log names one that training knew; map the column that does "
            "(--columns user_id=NAME)"
        )
    return (
        f"nothing to evaluate: no test session has an item for {protocol!r} to look for after "
        f"{min_prefix} positive item event(s); sessions of one item tell nothing, but where users "
        "come back --protocol user asks for a list of each"
    )


def _notes(
    bundle: Bundle,
    test: Log,
    protocol: str,
    placement: str,
    only: frozenset[str] | None,
    figures: Figures,
    silent: Sequence[str],
) -> list[str]:
    """What a reader must know to judge the figures."""
    known = float(figures.facts["known"].to_numpy().mean())
    unseen, wanted = (int(figures.facts[name].sum()) for name in ("unseen", "wanted"))
    notes = [
        f"training knew the user of {known:.1%} of the lists; for the others batch "
        "is one list for all",
        f"{unseen / wanted:.1%} of the items looked for never occurred in training, so that only "
        "the stream can tell of them",
        f"what placement {placement!r} takes out is out of the lists of all systems",
        "intervals: 1000 bootstrap draws; the lists of a user, or of a session without one, are "
        "drawn together",
        f"diversity is 1 - mean cosine in the {bundle.likeness[0]} embedding",
    ]
    if bundle.config.session.order == "ignored":
        notes.append(ORDER_IGNORED)
    auto = placement_of(bundle.config, placement).ranking == "auto"
    if auto and not len(bundle.forest.leaves):
        notes.append(f"no learned ranker, so full is a {bundle.facts.ranker}")
    elif auto and protocol != "user" and protocol != bundle.config.ranker.target:
        notes.append(
            f"the ranker learned {bundle.config.ranker.target!r}, and is asked for {protocol!r}; "
            "--protocol or ranker.target brings them together"
        )
    if silent:
        notes.append(f"had nothing to say, so gave the popular list: {', '.join(silent)}")
    if only is not None:
        total = test.frame["session_id"].n_unique()
        notes.append(f"{len(only):,} of {total:,} test sessions were drawn")
    if "rows" in (bundle.facts.clock, test.clock):
        notes.append("no times in the log: that training precedes the test rests on its order")
    return notes
