"""The feature table."""

import dataclasses
import itertools

import numpy as np
import pytest

from recsys import columns, features, ranking, retrieval
from recsys.bundle import Bundle
from recsys.config import TransitionsConfig
from recsys.interactions import Sequences
from recsys.models import forest, net, transitions
from recsys.session import Session
from recsys.training import train
from tests.synthetic import small_config
from tests.test_recommend import session_of
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(circle(), small_config(**RANKED))


def test_a_source_that_is_not_asked_has_proposed_nothing(bundle: Bundle) -> None:
    """Its rank is the worst and its score 0, as the forest learned for what it did not find."""
    who = retrieval.profile(bundle, session_of("i2", "i3"))
    candidates = retrieval.retrieve(bundle, who, 0, sources=("session_embedding",))
    table = ranking.feature_table(bundle, who, candidates)
    told = dict(zip(bundle.facts.features, table, strict=True))
    assert set(told["session_knn_rank"]) == {bundle.config.retrieval.session_knn}
    assert set(told["session_knn_score"]) == {0}
    assert np.min(told["session_embedding_rank"]) == 0


@pytest.mark.parametrize("net_weight", [0.0, 0.8])
def test_forest_and_net_rank_together(net_weight: float) -> None:
    """A score is the sum of theirs; with a weight of 0 there is no net, and training says so."""
    ranker = {**RANKED["ranker"], "net_weight": net_weight}
    trained = train(circle(), small_config(**{**RANKED, "ranker": ranker}))
    assert bool(len(trained.net.features)) == ("a net" in trained.facts.ranker) == (net_weight > 0)
    who = retrieval.profile(trained, session_of("i2", "i3"))
    ranked = ranking.rank(trained, who, 5, np.zeros(0, dtype=np.int32))
    table = ranked.made_of.values
    trees, smooth = forest.scores(trained.forest, table), net.scores(trained.net, table)
    assert np.array_equal(ranked.scores, trees + smooth)
    assert trees.std() > 0
    assert (smooth.std() > 0) == (net_weight > 0)


def test_what_is_popular_of_late_is_for_openings(bundle: Bundle) -> None:
    """It is asked where nothing of the session is known, where that has no order, or by name."""
    baskets = dataclasses.replace(bundle.config.session, order="ignored")
    config = dataclasses.replace(bundle.config, session=baskets)
    unordered = dataclasses.replace(bundle, config=config)

    def tops(bundle: Bundle, session: Session, sources: tuple[str, ...] = ()) -> float:
        who = retrieval.profile(bundle, session)
        found = retrieval.retrieve(bundle, who, 5, sources=sources)
        return float(found.tops[found.sources.index("recent")])

    assert tops(bundle, session_of("i2")) == 0
    assert tops(bundle, Session(user_id="u")) > 0
    assert tops(unordered, session_of("i2")) > 0
    assert tops(bundle, session_of("i2"), ("recent", "session_knn")) > 0


@pytest.mark.parametrize("sources", [(), ("session_knn", "session_embedding")])
def test_the_table_holds_what_each_feature_says(bundle: Bundle, sources: tuple[str, ...]) -> None:
    """What is filled at once is, row by row, what the function of that name gives."""
    who = retrieval.profile(bundle, session_of("i3", "i1", "i2", "i1"))
    candidates = retrieval.retrieve(bundle, who, 5, sources=sources)
    context = features.Context.of(bundle, who, candidates)
    table = ranking.feature_table(bundle, who, candidates)
    known = {**features.FEATURES, **features.live_features(bundle.config.aggregate)}
    for name, row in zip(bundle.facts.features, table, strict=True):
        told = np.broadcast_to(known[name](context), row.shape)
        np.testing.assert_array_equal(row, told.astype(np.float32), err_msg=name)


def test_going_back_is_told_in_events(bundle: Bundle) -> None:
    """A visitor who went i3, i1, i2, i1 is back at i1 for the second time."""
    who = retrieval.profile(bundle, session_of("i3", "i1", "i2", "i1"))
    candidates = retrieval.retrieve(bundle, who, 0)
    table = ranking.feature_table(bundle, who, candidates)
    at = np.searchsorted(candidates.rows, bundle.items.rows(["i1", "i2", "i3"]))
    told = {name: row[at].tolist() for name, row in zip(bundle.facts.features, table, strict=True)}
    assert told["times_touched"] == [2, 1, 1]
    assert told["events_since_touched"] == [0, 1, 3]
    assert told["events_since_first_touched"] == [3, 2, 4]
    assert told["led_to_last"] == [0, 0, 1]
    assert told["followed_last"] == [0, 1, 0]
    assert told["late_repeats"] == [1, 1, 1]
    assert told["run"] == [1, 1, 1]
    assert told["events_since_last_visit"] == [2, 2, 2]


@pytest.mark.parametrize("kept", [2, 4, 40])
def test_links_are_those_in_the_table(kept: int) -> None:
    """However many transitions an item keeps, shares and links are what a plain search finds."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 9, 200)
    sequences = Sequences(
        np.concatenate([[0], np.cumsum(lengths)]),
        rng.integers(0, 30, lengths.sum()).astype(np.int32),
    )
    config = TransitionsConfig(neighbours=kept, window=2)
    table = transitions.fit(sequences, 30, config)
    dense = np.zeros((30, 30), dtype=np.float32)
    for row, (first, end) in enumerate(itertools.pairwise(table.starts.tolist())):
        dense[row, table.neighbours[first:end]] = table.shares[first:end]
    for last, second in itertools.product(range(30), repeat=2):
        rows = np.sort(rng.choice(30, 12, replace=False)).astype(np.int32)
        links = np.zeros((3, len(rows)), dtype=np.float32)
        recent = np.array([last, second], dtype=np.int32)
        links_of = table.starts, table.neighbours, table.shares
        columns._links(links, *links_of, recent, *columns.slots(rows))
        np.testing.assert_array_equal(links[0], dense[last, rows])
        np.testing.assert_array_equal(links[1], dense[second, rows])
        np.testing.assert_array_equal(links[2], (dense[[last, second]][:, rows] > 0).sum(axis=0))
