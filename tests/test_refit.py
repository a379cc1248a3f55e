"""A refit is what a training counts, what the active bundle learned, and what is new."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.config import Config
from recsys.evaluation.split import split
from recsys.events import Event
from recsys.gate import judge_by, unseen
from recsys.logs import Log, log_from_frame
from recsys.models import session_embedding
from recsys.recommend import Request, recommend
from recsys.refit import REHEARSED, RefitError, of_refit, refit, rehearse
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train
from tests.synthetic import checkerboard, small_config, walks

COUNTED = (
    *("items", "users", "history", "popularity"),
    *("item_knn", "transitions", "continuations", "session_knn"),
)
EARLY, SESSIONS = 200, 260  # sessions that the active bundle has seen, and all


def config(**tables: object) -> Config:
    ranker = {"min_requests": 50, "tail": 0.3, "trees": 5, "leaves": 4, "min_leaf": 5}
    encoder = {"embedding_size": 8, "negatives": 32, "batch": 64, "epochs": 4}
    return small_config(**{"ranker": ranker, "session_embedding": encoder, **tables})


def grown() -> pl.DataFrame:
    """Walks, in the last of which "new" comes after i5 instead of i6."""
    frame = walks(SESSIONS)
    late = pl.int_range(len(frame)) >= 6 * EARLY
    after = pl.col("item_id").shift(1).over("session_id") == "i5"
    item = pl.when(late & after & (pl.col("item_id") == "i6")).then(pl.lit("new"))
    return frame.with_columns(item.otherwise("item_id").alias("item_id"))


@pytest.fixture(scope="module")
def log() -> Log:
    return log_from_frame(grown())


@pytest.fixture(scope="module")
def active() -> Bundle:
    return train(grown().head(6 * EARLY), config())


@pytest.fixture(scope="module")
def newer(active: Bundle, log: Log) -> Bundle:
    return refit(active, log)


def at(item: str) -> Session:
    return Session.from_events([Event("view", "s", item, timestamp=0.0)])


def test_what_is_counted_is_what_a_training_counts(newer: Bundle, log: Log) -> None:
    """Ids, history, popularity and all tables of neighbours, to the last bit."""
    anew = train(log, config(ranker={"enabled": False}))
    for name in COUNTED:
        for field in dataclasses.fields(getattr(anew, name)):
            ours, theirs = (getattr(getattr(b, name), field.name) for b in (newer, anew))
            np.testing.assert_array_equal(ours, theirs, f"{name}.{field.name}")
    assert newer.facts.counts == anew.facts.counts
    assert newer.cutoff == anew.cutoff


def test_a_new_item_is_in_every_part(active: Bundle, newer: Bundle) -> None:
    """What the active bundle does not know is recommended, and has its place in the embeddings."""
    assert "new" not in active.items
    assert "new" in recommend(newer, at("i5"), Request(n=10)).item_ids
    row = newer.items.rows(["new"])[0]
    assert newer.embedding.item_factors[row].any()
    vectors = newer.session_embedding.item_vectors
    assert np.linalg.norm(vectors[row]) == pytest.approx(1, abs=1e-5)
    # Amid those it was met with: nearer to its neighbours on the walk than to those far away.
    near, far = (vectors[newer.items.rows(names)] @ vectors[row] for names in (["i5"], ["i35"]))
    assert near.mean() > far.mean()


def test_the_ranker_is_taken_over(active: Bundle, newer: Bundle) -> None:
    """With its features; the lists are the ranker's."""
    assert active.facts.ranker.startswith("forest")
    assert len(active.forest.feature)
    for part in ("forest", "net"):
        for field in dataclasses.fields(getattr(active, part)):
            old, new = (getattr(getattr(b, part), field.name) for b in (active, newer))
            assert new is old
            assert len(new)
    told = ("ranker", "features", "openings")
    assert [getattr(newer.facts, name) for name in told] == [
        getattr(active.facts, name) for name in told
    ]
    assert recommend(newer, at("i5"), Request(n=3)).tier == "ranker"


def test_what_was_learned_stays(active: Bundle, newer: Bundle) -> None:
    """Items move, but not far from where the active bundle has them."""
    ids = active.items.ids(range(len(active.items)))
    before = active.session_embedding.item_vectors
    now = newer.session_embedding.item_vectors[newer.items.rows(ids)]
    cosines = (before * now).sum(axis=1)
    assert np.median(cosines) > 0.9
    assert not np.array_equal(before, now)


def test_a_refit_says_what_it_comes_from(active: Bundle, newer: Bundle, log: Log) -> None:
    """The versions back to the full training; and the same again is the same version."""
    first = dataclasses.replace(log, frame=log.frame.head(6 * EARLY + 60))
    once = refit(active, first)
    twice = refit(once, log)
    assert newer.facts.line == [active.version]
    assert twice.facts.line == [active.version, once.version]
    assert refit(active, log).version == newer.version


@pytest.mark.parametrize("model", ["als", "bpr", "svd"])
def test_every_embedding_goes_on(model: str) -> None:
    """Items that are new get their factors, whatever the model."""
    frame = checkerboard()
    settings = config(
        embedding={"model": model, "embedding_size": 4, "epochs": 5}, training={"threads": 1}
    )
    later = frame.tail(24).with_columns(
        session_id=pl.col("session_id") + "-later",
        timestamp=pl.col("timestamp") + 1000,
        item_id=pl.when(pl.col("item_id") == "i1").then(pl.lit("new")).otherwise("item_id"),
    )
    newer = refit(train(frame, settings), pl.concat([frame, later]))
    assert newer.embedding.item_factors[newer.items.rows(["new"])[0]].any()


def test_an_event_that_came_late_brings_its_item(active: Bundle) -> None:
    """Of a session before the cut-off: it is in no new session, and has a vector all the same."""
    frame = grown()
    late = frame.head(2).with_columns(item_id=pl.lit("late"), session_id=pl.lit("s0"))
    newer = refit(active, pl.concat([late, frame]).sort("timestamp", maintain_order=True))
    row = newer.items.rows(["late"])[0]
    assert newer.session_embedding.item_vectors[row].any()


def test_what_the_log_lost_is_gone(active: Bundle) -> None:
    """Old files were deleted: the items of these alone are no longer there."""
    frame = grown().filter(pl.col("item_id") != "i7")
    newer = refit(active, frame)
    assert "i7" in active.items
    assert "i7" not in newer.items


def test_nothing_new_to_learn_is_no_error(active: Bundle) -> None:
    """One more event, in a session of its own, has nothing that follows another."""
    frame = grown().head(6 * EARLY)
    one = frame.tail(1).with_columns(session_id=pl.lit("z"), timestamp=pl.col("timestamp") + 1)
    newer = refit(active, pl.concat([frame, one]))
    ids = newer.items.ids(range(len(newer.items)))
    now, before = newer.session_embedding, active.session_embedding
    rows = active.items.rows(ids)
    np.testing.assert_allclose(now.item_vectors, before.item_vectors[rows], atol=1e-6)


def test_a_bundle_of_before_a_setting_was_there_is_refitted(active: Bundle) -> None:
    """What it could not be told is taken as training decides it today."""
    ranker = dataclasses.replace(active.config.ranker, bagging_fraction=None)
    config = dataclasses.replace(active.config, ranker=ranker)
    older = dataclasses.replace(active, config=config)
    assert refit(older, grown()).config == active.config


def test_what_cannot_be_refitted_is_explained(active: Bundle, log: Log) -> None:
    """Other settings, nothing new, only what is new, another clock."""
    with pytest.raises(RefitError, match=r"other settings in \[transitions\].*full training"):
        refit(active, log, config(transitions={"window": 3}))
    with pytest.raises(RefitError, match=r"nothing to refit: bundle \w+ has seen the log up to"):
        refit(active, grown().head(6 * EARLY))
    with pytest.raises(RefitError, match=r"the log begins at .* give the whole log"):
        refit(active, grown().tail(60))
    with pytest.raises(RefitError, match="whose clock is its time, this one's is its rows"):
        refit(active, grown().drop("timestamp"))
    refit(active, log, config(training={"threads": 1}))


def test_without_sessions_to_learn_from_there_is_nothing_to_go_on_from() -> None:
    """The active bundle has no session embedding; the refit learns one as soon as it can."""
    frame = walks(60)
    single = frame.with_columns(session_id="n" + pl.col("timestamp").cast(pl.String)).head(100)
    active = train(single, config())
    assert not len(active.session_embedding.item_vectors)
    newer = refit(active, pl.concat([single, frame.tail(200)]))
    assert len(newer.session_embedding.item_vectors) == len(newer.items)


def test_a_refit_is_judged_by_its_rehearsal(tmp_path: Path) -> None:
    """Against the latest of its line that has not seen the window, though it has itself."""
    quick = config(ranker={"enabled": False})
    log = log_from_frame(walks(900))
    registry = Registry(tmp_path)
    upto = [dataclasses.replace(log, frame=log.frame.head(n)) for n in (3600, 4500)]
    first = train(upto[0], quick)
    registry.publish(first)
    second = refit(first, upto[1])
    registry.publish(second)
    cut = split(log, "0.2")  # from event 4,320 on
    assert registry.line() == [second.version, first.version]
    base = unseen(registry, cut.test)
    assert base is not None
    assert base.version == first.version
    third = refit(second, log)
    rehearsal = rehearse(registry, cut)
    assert rehearsal.facts.line == [first.version]
    assert rehearsal.cutoff < float(cut.test.frame["timestamp"][0]) <= second.cutoff
    verdict = of_refit(judge_by(cut, rehearsal, registry), third)
    assert verdict.candidate == third.version
    assert verdict.active == first.version
    assert verdict.passed, verdict.reasons
    assert verdict.notes[0] == REHEARSED
    assert not any("the window is not in the bundle" in note for note in verdict.notes)
    with pytest.raises(RefitError, match=f"bundle {second.version} has seen the log up to"):
        rehearse(registry, split(dataclasses.replace(log, frame=log.frame.head(4400)), "0.2"))


def test_pruning_spares_the_full_training(tmp_path: Path) -> None:
    """A gate needs it; among refits alone, no full training is removed."""
    quick = config(ranker={"enabled": False})
    frame, registry = walks(120), Registry(tmp_path)
    lone = train(frame.head(300), quick)
    first = train(frame.head(360), quick)
    line = [lone, first]
    for n in (420, 480, 540, 600):
        line.append(refit(line[-1], frame.head(n)))
    for bundle in line:
        registry.publish(bundle)
    versions = [bundle.version for bundle in line]
    assert registry.prune(1, refits=True) == versions[2:4]
    assert registry.line() == [versions[5], versions[4], versions[1]]
    assert registry.prune(1) == versions[:1]


def test_session_vectors_of_old_sessions_hold(active: Bundle, newer: Bundle) -> None:
    """A session of known items has nearly the same taste in both."""
    names = ["i3", "i4", "i5"]
    ours = session_embedding.session_vector(newer.session_embedding, newer.items.rows(names))
    before = session_embedding.session_vector(active.session_embedding, active.items.rows(names))
    assert float(ours @ before) > 0.8
