"""What the ranker is told of sessions whose order is ignored."""

import itertools

import numpy as np
import pytest

from recsys import baskets, features, ranking, retrieval
from recsys.bundle import Bundle
from recsys.models.popularity import USUAL_LENGTH
from recsys.training import train
from tests.synthetic import log_frame, small_config
from tests.test_recommend import session_of
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def shop() -> Bundle:
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


def test_what_is_told_of_the_whole_session_is_for_baskets(shop: Bundle) -> None:
    """A ranker of sessions in order does without, and does not wait for it."""
    bundle = train(circle(), small_config(**RANKED))
    assert set(baskets.BASKET) <= set(shop.facts.features)
    assert not set(baskets.BASKET) & set(bundle.facts.features)
    who = retrieval.profile(bundle, session_of("i2", "i3"))
    assert not len(features.Context.of(bundle, who, retrieval.retrieve(bundle, who, 0)).basket)


def test_the_whole_session_is_told_as_a_plain_search_tells_it(shop: Bundle) -> None:
    """Neighbours, votes, cosines and the own past of every candidate, for a known user."""
    assert shop.config.session.order == "ignored"
    who = retrieval.profile(shop, session_of("i3", "i1", "i5", type_="purchase", user="u1"))
    candidates = retrieval.retrieve(shop, who, 5)
    live, rows = who.live[0], candidates.rows
    table = ranking.feature_table(shop, who, candidates)
    told = dict(zip(shop.facts.features, table, strict=True))
    near = np.zeros((len(shop.items),) * 2)
    knn = shop.item_knn
    for item, (first, end) in enumerate(itertools.pairwise(knn.starts.tolist())):
        near[item, knn.neighbours[first:end]] = knn.similarities[first:end]
    of_past, weights = near[who.past[0]][:, rows], who.past[1]
    np.testing.assert_allclose(told["past_knn"], weights @ of_past / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(told["past_links"], (of_past > 0).mean(axis=0), rtol=1e-5)
    near = near[live][:, rows]
    np.testing.assert_allclose(told["whole_knn_mean"], near.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["whole_knn"], near.sum(axis=0) / near.sum(axis=0).max(), 1e-5)
    np.testing.assert_allclose(told["whole_links"], (near > 0).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["whole_knn_highest"], near.max(axis=0), rtol=1e-5)
    vectors = shop.session_embedding.item_vectors
    cosines = (vectors[rows] @ vectors[live].T).mean(axis=1)
    np.testing.assert_allclose(told["whole_cosine"], cosines, atol=1e-5)
    model = shop.session_knn
    count, votes = len(model.session_weights), np.zeros(len(shop.items))
    for session, (first, end) in enumerate(itertools.pairwise(model.indptr)):
        inside = model.items[first:end]
        shared = sum(model.match_weights[item] for item in live if item in inside)
        late = np.exp(baskets.VOTE_AGE * (session / count - 1))
        np.add.at(votes, inside, shared * model.session_weights[session] * late)
    np.testing.assert_allclose(told["whole_votes"], votes[rows] / votes[rows].max(), rtol=1e-4)
    past = dict(zip(who.past[0].tolist(), who.past[1].tolist(), strict=True))
    np.testing.assert_allclose(told["own_weight"], [past.get(row, 0) for row in rows.tolist()])
    mine = shop.history.of(who.user)
    history = shop.history.items[mine].tolist()
    places = [history.index(row) if row in history else -1 for row in rows.tolist()]
    assert told["own_place"].tolist() == places
    sessions = shop.history.sessions[who.user]
    interest = dict(zip(history, shop.history.weights[mine].tolist(), strict=True))
    own = [interest.get(row, 0) / sessions for row in rows.tolist()]
    np.testing.assert_allclose(told["own_share"], own, rtol=1e-5)
    assert set(told["past_sessions"]) == {sessions}
    assert set(told["past_interest"]) == {sum(interest.values())}
    np.testing.assert_array_equal(told["usual_length"], shop.popularity.kinds[rows, USUAL_LENGTH])


def test_a_stranger_has_no_past(shop: Bundle) -> None:
    """Whoever is not known has no interest, no sessions and no neighbours of a past."""
    who = retrieval.profile(shop, session_of("i3", "i1", type_="purchase"))
    table = ranking.feature_table(shop, who, retrieval.retrieve(shop, who, 5))
    told = dict(zip(shop.facts.features, table, strict=True))
    for name in ("past_knn", "past_links", "own_share", "past_sessions", "past_interest"):
        assert not told[name].any(), name
    assert set(told["own_place"]) == {-1}
