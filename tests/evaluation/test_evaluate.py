"""Evaluation tells good lists from bad ones, fairly, and refuses what it cannot judge."""

import dataclasses
import math
from io import StringIO

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from rich.progress import Progress

from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.replay import samples
from recsys.evaluation.report import Batch, Calibration, Lift, Report
from recsys.evaluation.split import EvaluationError, split
from recsys.evaluation.systems import SYSTEMS, Panel
from recsys.evaluation.tables import report_table
from recsys.logs import Log, log_from_frame
from recsys.metrics import Estimate
from recsys.recommend import Request, UnknownPlacementError, recommend
from recsys.session import Session
from recsys.training import train
from tests.evaluation.conftest import trained
from tests.synthetic import small_config, two_worlds
from tests.test_training import RANKED, circle

ITEMS, LENGTH = 24, 4  # of two_worlds: its items, and the events of a session


def test_session_beats_popular(anonymous: tuple[Bundle, Log]) -> None:
    """Where the session shows the side, full finds the next item far more often than popular."""
    report = evaluate(*anonymous, placement="discover", at=(10,))
    full, popular = report.systems["full"], report.systems["popular"]
    assert full["hr@10"] > popular["hr@10"] + 0.25
    lift = report.lift["hr@10"]
    assert lift.relative.low is not None
    assert lift.difference.low is not None
    assert lift.relative.low > 0
    assert lift.difference.low > 0.1


def test_strangers(anonymous: tuple[Bundle, Log]) -> None:
    """Without users batch is the best list for all and full is session, exactly."""
    report = evaluate(*anonymous)
    systems = report.systems
    assert report.batch.known is None
    best = max(report.batch.mixes["strangers"].values())
    assert systems["batch"]["ndcg@20"] == best >= systems["popular"]["ndcg@20"]
    assert systems["session"] == systems["full"]


def test_known_users(known: tuple[Bundle, Log]) -> None:
    """With users all four systems differ, and the session is worth more than who it is."""
    systems = evaluate(*known, placement="basket", at=(10,)).systems
    assert len({tuple(figures.values()) for figures in systems.values()}) == 4
    assert systems["session"]["ndcg@10"] > systems["batch"]["ndcg@10"]


def test_what_is_drawn_together(known: tuple[Bundle, Log], anonymous: tuple[Bundle, Log]) -> None:
    """A bootstrap draws users with all their sessions, and sessions where there is no user."""
    of_users, of_sessions = evaluate(*known), evaluate(*anonymous)
    assert of_users.clusters == known[1].frame["user_id"].n_unique() < of_users.sessions
    assert of_sessions.clusters == of_sessions.sessions
    # Half of the sessions signed in: their users are drawn, and each of the others by itself.
    bundle, test = known
    signed_in = pl.col("session_id").str.tail(1).is_in(list("02468"))
    frame = test.frame.with_columns(user_id=pl.when(signed_in).then("user_id"))
    mixed = evaluate(bundle, dataclasses.replace(test, frame=frame))
    users = frame.filter(signed_in)["user_id"].n_unique()
    assert mixed.clusters == users + frame.filter(~signed_in)["session_id"].n_unique()


def test_shape(anonymous: tuple[Bundle, Log]) -> None:
    """The JSON holds the contract's fields, for every k, as plain values."""
    bundle, test = anonymous
    data = evaluate(bundle, test, at=(5, 20), protocol="rest-of-session").to_dict()
    names = ["hr", "mrr", "ndcg", "recall", "precision", "coverage", "popularity"]
    names += ["novelty", "diversity"]
    for system in ("popular", "batch", "session", "full"):
        assert set(data["systems"][system]) == {f"{n}@{k}" for n in names for k in (5, 20)}
        for name, value in data["systems"][system].items():
            assert 0.0 <= value <= (math.log2(ITEMS) + 1 if "novelty" in name else 1.0)
    assert set(data["lift"]["ndcg@20"]) == {"value", "low", "high", "difference"}
    assert data["latency_us"]["p50"] <= data["latency_us"]["p90"] <= data["latency_us"]["p99"]
    assert data["protocol"] == "rest-of-session"
    assert data["samples"] == test.frame["session_id"].n_unique() * (LENGTH - 1)
    assert data["sessions"] == test.frame["session_id"].n_unique()
    assert data["bundle"] == bundle.version
    assert data["placement"] == "default"
    assert data["partial"] is False


def test_against_by_hand(anonymous: tuple[Bundle, Log]) -> None:
    """Figures equal a plain loop over recommend."""
    bundle, test = anonymous
    hits, ranks, shown = [], [], set()
    for (session_id,), rows in test.frame.group_by("session_id", maintain_order=True):
        events = list(samples(rows, bundle.config))
        for sample in events:
            session = Session.from_events(sample.moment.events, session_id=str(session_id))
            items = recommend(bundle, session, Request(n=8)).item_ids
            shown.update(items)
            hits.append(sample.upcoming[0] in items)
            ranks.append(1 / (items.index(sample.upcoming[0]) + 1) if hits[-1] else 0.0)
    full = evaluate(bundle, test, at=(8,)).systems["full"]
    assert full["hr@8"] == pytest.approx(np.mean(hits))
    assert full["recall@8"] == pytest.approx(np.mean(hits))
    assert full["precision@8"] == pytest.approx(np.mean(hits) / 8)
    assert full["mrr@8"] == pytest.approx(np.mean(ranks))
    assert full["coverage@8"] == pytest.approx(len(shown) / ITEMS)


def test_bought_items_are_no_targets() -> None:
    """Where purchases leave the list, a second purchase of the same item is passed over."""
    frame = two_worlds(80, kind="purchase")
    bundle, test = trained(frame)
    again = test.frame.with_columns(timestamp=pl.col("timestamp") + 0.5)
    doubled = pl.concat([test.frame, again]).sort("timestamp", maintain_order=True)
    twice = evaluate(bundle, dataclasses.replace(test, frame=doubled))
    once = evaluate(bundle, test)
    assert once.samples == test.frame["session_id"].n_unique() * (LENGTH - 1)
    assert twice.samples == 2 * once.samples


def test_unseen_items_are_misses(anonymous: tuple[Bundle, Log]) -> None:
    """Items that training never saw stay in the denominator."""
    bundle, test = anonymous
    renamed = test.frame.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) % LENGTH == LENGTH - 1)
        .then(pl.lit("new-") + pl.col("item_id"))
        .otherwise("item_id")
    )
    report = evaluate(bundle, dataclasses.replace(test, frame=renamed), at=(ITEMS,))
    assert report.samples == test.frame["session_id"].n_unique() * (LENGTH - 1)
    assert report.systems["popular"]["hr@24"] == pytest.approx(2 / 3)
    assert any("33.3% of the items looked for never occurred" in note for note in report.notes)


def test_who_ranks_and_what_it_learned_is_told(anonymous: tuple[Bundle, Log]) -> None:
    """Without a ranker, why; of baskets, that they are; a ranker of another target, which."""
    bundle, test = anonymous

    def told(bundle: Bundle, protocol: str, words: str) -> bool:
        return any(words in note for note in evaluate(bundle, test, protocol=protocol).notes)

    assert told(bundle, "next-item", f"no learned ranker, so full is a {bundle.facts.ranker}")
    assert not told(bundle, "next-item", "the order of a session's events is ignored")
    order = dataclasses.replace(bundle.config.session, order="ignored")
    baskets = dataclasses.replace(bundle.config, session=order)
    baskets_bundle = dataclasses.replace(bundle, config=baskets)
    assert told(baskets_bundle, "next-item", "the order of a session's events is ignored")
    cut = split(log_from_frame(circle()), "0.2")
    bundle, test = train(cut.train, small_config(**RANKED)), cut.test
    assert told(bundle, "rest-of-session", "the ranker learned 'next-item', and is asked for")
    assert not told(bundle, "next-item", "the ranker learned")
    config = bundle.config.with_placement("default", ranking="session_knn")
    alone = dataclasses.replace(bundle, config=config)
    assert not told(alone, "rest-of-session", "the ranker learned")


def test_future_is_refused(anonymous: tuple[Bundle, Log]) -> None:
    """One planted training event after the first test event is enough to refuse the bundle."""
    bundle, test = anonymous
    future = dataclasses.replace(bundle.facts, cutoff=test.frame["timestamp"][0] + 1.0)
    with pytest.raises(EvaluationError, match="has seen the future"):
        evaluate(dataclasses.replace(bundle, facts=future), test)


def test_same_seed_same_report(known: tuple[Bundle, Log]) -> None:
    """All but the latencies is the same in a second run."""
    first, second = (evaluate(*known, max_sessions=20, seed=7) for _ in range(2))
    assert dataclasses.replace(first, latency_us={}) == dataclasses.replace(second, latency_us={})
    assert first.sessions == 20
    assert any("20 of" in note for note in first.notes)


def test_more_placements(anonymous: tuple[Bundle, Log]) -> None:
    """The placement of the bundle's configuration is the one that is asked."""
    bundle, test = anonymous
    config = dataclasses.replace(
        bundle.config, placements={**bundle.config.placements, "x": Placement(exclude=("any",))}
    )
    own = evaluate(dataclasses.replace(bundle, config=config), test, placement="x")
    assert own.systems == evaluate(bundle, test, placement="discover").systems
    with pytest.raises(UnknownPlacementError, match="'discover'"):
        evaluate(bundle, test, placement="discovery")


def test_wrong_arguments(anonymous: tuple[Bundle, Log]) -> None:
    """Arguments that cannot be meant are refused by name."""
    bundle, test = anonymous
    with pytest.raises(EvaluationError, match="'next'; did you mean 'next-item'"):
        evaluate(bundle, test, protocol="next")
    for at in ((), (0,), (20, 1001)):
        with pytest.raises(EvaluationError, match="1 to 1000"):
            evaluate(bundle, test, at=at)
    with pytest.raises(EvaluationError, match="shortest prefix"):
        evaluate(bundle, test, min_prefix=0)
    with pytest.raises(EvaluationError, match="at least 1 session"):
        evaluate(bundle, test, max_sessions=0)


def test_nothing_to_look_for(anonymous: tuple[Bundle, Log]) -> None:
    """Sessions of one event give no sample, and the error says why."""
    bundle, test = anonymous
    singles = test.frame.unique("session_id", keep="first", maintain_order=True)
    with pytest.raises(EvaluationError, match="sessions of one item tell nothing"):
        evaluate(bundle, dataclasses.replace(test, frame=singles))


def test_interrupt_reports_what_was_done(
    anonymous: tuple[Bundle, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the replay with a partial report of the lists so far."""
    bundle, test = anonymous
    calls = 0
    inner = Panel.lists

    def lists(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise KeyboardInterrupt
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Panel, "lists", lists)
    report = evaluate(bundle, test)
    assert report.partial
    assert report.samples == 10


def test_progress_and_table(anonymous: tuple[Bundle, Log]) -> None:
    """The bar ends full and the table shows every system and the lift."""
    bundle, test = anonymous
    out = Console(file=StringIO(), width=80)
    with Progress(console=Console(file=StringIO())) as progress:
        report = evaluate(bundle, test, at=(5, 10), progress=progress)
        assert progress.finished
    out.print(report_table(report))
    text = out.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for word in ("popular", "batch", "session", "full over batch", "ndcg@5", "hr@10", "p99", "%"):
        assert word in text
    row = next(line for line in text.splitlines() if "hr@5" in line)
    assert "…" in row
    assert row.rstrip().endswith("%"), "the interval fits into 80 columns"


def test_undefined_lift_is_shown() -> None:
    """A baseline that never hits has a dash for its lift, not an error."""
    estimate = Estimate(None, None, None)
    figures = {"hr@1": 0.0}
    report = Report(
        protocol="next-item",
        placement="default",
        samples=1,
        sessions=1,
        clusters=1,
        systems=dict.fromkeys(SYSTEMS, figures),
        lift={"hr@1": Lift(estimate, estimate)},
        latency_us={"p50": 1.0},
        batch=Batch("ndcg@1", None, "popular", {}),
        calibration=Calibration(1, {}, {}),
        bundle="v",
        seed=1,
    )
    out = Console(file=StringIO(), width=80)
    out.print(report_table(report))
    assert "–" in out.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert report.to_dict()["lift"]["hr@1"]["value"] is None
