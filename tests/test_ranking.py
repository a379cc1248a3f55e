"""The feature table."""

import itertools

import numpy as np
import pytest

from recsys import columns, features, ranking, retrieval
from recsys.bundle import Bundle
from recsys.config import TransitionsConfig
from recsys.interactions import Sequences
from recsys.models import transitions
from recsys.training import train
from tests.synthetic import log_frame, small_config
from tests.test_recommend import session_of
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(circle(), small_config(**RANKED))


def test_a_source_that_is_not_asked_has_proposed_nothing(bundle: Bundle) -> None:
    """Its rank is the worst and its score 0, as the forest learned for what it did not find."""
    who = retrieval.profile(bundle, session_of("i2", "i3"))
    candidates = retrieval.retrieve(bundle, who, 0, sources=("transitions",))
    table = ranking.feature_table(bundle, who, candidates)
    told = dict(zip(bundle.facts.features, table, strict=True))
    assert set(told["session_knn_rank"]) == {bundle.config.retrieval.session_knn}
    assert set(told["session_knn_score"]) == {0}
    assert np.min(told["transitions_rank"]) == 0


@pytest.mark.parametrize("sources", [(), ("transitions", "session_knn")])
def test_the_table_holds_what_each_feature_says(bundle: Bundle, sources: tuple[str, ...]) -> None:
    """What is filled at once is, row by row, what the function of that name gives."""
    who = retrieval.profile(bundle, session_of("i3", "i1", "i2", "i1"))
    candidates = retrieval.retrieve(bundle, who, 5, sources=sources)
    context = features.Context.of(bundle, who, candidates)
    table = ranking.feature_table(bundle, who, candidates)
    for name, row in zip(bundle.facts.features, table, strict=True):
        told = np.broadcast_to(features.FEATURES[name](context), row.shape)
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
    for row, (near, shares) in enumerate(zip(table.neighbours, table.shares, strict=True)):
        dense[row, near[near >= 0]] = shares[near >= 0]
    for last, second in itertools.product(range(30), repeat=2):
        rows = np.sort(rng.choice(30, 12, replace=False)).astype(np.int32)
        links = np.zeros((3, len(rows)), dtype=np.float32)
        recent = np.array([last, second], dtype=np.int32)
        columns._links(links, table.neighbours, table.shares, recent, *columns.slots(rows))
        np.testing.assert_array_equal(links[0], dense[last, rows])
        np.testing.assert_array_equal(links[1], dense[second, rows])
        np.testing.assert_array_equal(links[2], (dense[[last, second]][:, rows] > 0).sum(axis=0))


@pytest.fixture(scope="module")
def baskets() -> Bundle:
    """Baskets of known users and strangers, whose lines share one time."""
    rng = np.random.default_rng(5)
    rows = [
        {
            "session_id": f"b{k}",
            "user_id": f"u{k % 9}" if k % 3 else None,
            "item_id": f"i{(item * item + k % 4) % 17}",
            "type": "purchase",
            "timestamp": 1.7e9 + 600.0 * k,
        }
        for k in range(240)
        for item in rng.choice(17, rng.integers(2, 8), replace=False).tolist()
    ]
    return train(log_frame(rows), small_config(**RANKED))


def test_what_is_told_of_the_whole_session_is_for_baskets(bundle: Bundle, baskets: Bundle) -> None:
    """A ranker of sessions in order does without, and does not wait for it."""
    assert set(columns.BASKET) <= set(baskets.facts.features)
    assert not set(columns.BASKET) & set(bundle.facts.features)
    who = retrieval.profile(bundle, session_of("i2", "i3"))
    assert not len(features.Context.of(bundle, who, retrieval.retrieve(bundle, who, 0)).basket)


def test_the_whole_session_is_told_as_a_plain_search_tells_it(baskets: Bundle) -> None:
    """Neighbours, votes, cosines and the own past of every candidate, for a known user."""
    assert baskets.config.session.order == "ignored"
    who = retrieval.profile(baskets, session_of("i3", "i1", "i5", type_="purchase", user="u1"))
    candidates = retrieval.retrieve(baskets, who, 5)
    live, rows = who.live[0], candidates.rows
    table = ranking.feature_table(baskets, who, candidates)
    told = dict(zip(baskets.facts.features, table, strict=True))
    near = np.zeros((len(baskets.items),) * 2)
    for item, (others, values) in enumerate(
        zip(baskets.item_knn.neighbours, baskets.item_knn.similarities, strict=True)
    ):
        near[item, others[others >= 0]] = values[others >= 0]
    near = near[live][:, rows]
    np.testing.assert_allclose(told["whole_knn_mean"], near.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["whole_knn"], near.sum(axis=0) / near.sum(axis=0).max(), 1e-5)
    np.testing.assert_allclose(told["whole_links"], (near > 0).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["whole_knn_highest"], near.max(axis=0), rtol=1e-5)
    vectors = baskets.session_embedding.item_vectors
    cosines = (vectors[rows] @ vectors[live].T).mean(axis=1)
    np.testing.assert_allclose(told["whole_cosine"], cosines, atol=1e-5)
    model = baskets.session_knn
    count, votes = len(model.indptr), np.zeros(len(baskets.items))
    for session, (first, end) in enumerate(itertools.pairwise(model.indptr)):
        inside = model.items[first:end]
        shared = sum(model.match_weights[item] for item in live if item in inside)
        late = np.exp(columns.VOTE_AGE * (session / count - 1))
        np.add.at(votes, inside, shared * model.session_weights[session] * late)
    np.testing.assert_allclose(told["whole_votes"], votes[rows] / votes[rows].max(), rtol=1e-4)
    past = dict(zip(who.past[0].tolist(), who.past[1].tolist(), strict=True))
    np.testing.assert_allclose(told["own_weight"], [past.get(row, 0) for row in rows.tolist()])
    history = baskets.history.items[baskets.history.of(who.user)].tolist()
    places = [history.index(row) if row in history else -1 for row in rows.tolist()]
    assert told["own_place"].tolist() == places
