"""What the ranker is told of sessions whose order is ignored."""

import itertools

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from recsys import baskets, features, ranking, retrieval
from recsys.bundle import Bundle
from recsys.evaluation.replay import replay
from recsys.events import Event
from recsys.models.popularity import USUAL_LENGTH
from recsys.retrieval import Profile
from recsys.session import Session
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
    sessions = len(shop.history.visits_of(who.user))
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


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_own_sessions_vote_by_what_they_share_with_this_one() -> None:
    """Of a bundle and later ones alike; each item once a session, however often it stands there."""
    told = np.zeros((4, 5), np.float32)
    weights = np.array([4, 1, 2, 3, 1, 1, 1], np.float32)
    # Of the log: (0 0 1 2), (3 4), which shares nothing, and a stranger's. Later: (2 3 5 1), (0).
    items, indptr = ints(0, 0, 1, 2, 3, 4, 0, 1), np.array([0, 4, 6, 8])
    later, begin = ints(2, 3, 5, 1, 0), np.array([0, 4, 5])
    baskets.own_votes(
        told, ints(1, 2, 3, 4, 6), ints(0, 2), weights, indptr, items, ints(1, 0), begin, later
    )
    first, second = 6 / 3**0.5, 2 / 4**0.5
    both = first + second
    np.testing.assert_allclose(told[0], [both, both, second, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(told[1], np.array([both, both, second, 0, 0]) / both, rtol=1e-6)
    np.testing.assert_allclose(told[2], [first, first, second, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(told[3], [both / 2, both / 2, second / 2, 0, 0], rtol=1e-6)


def bought(session: str, at: float, *items: str, user: str | None = "u1") -> list[Event]:
    return [Event("purchase", session, item, user, timestamp=at) for item in items]


def known(shop: Bundle, basket: list[Event], earlier: list[Event]) -> Profile:
    session = Session.from_events(
        basket, [*earlier, *basket], session_id="now", config=shop.config.session
    )
    return retrieval.profile(shop, session)


def own_votes(shop: Bundle, who: Profile) -> dict[str, NDArray[np.float32]]:
    """What is told of every item, in order of rows."""
    every = np.arange(len(shop.items), dtype=np.int32)
    nothing = np.zeros((0, len(every)), np.float32)
    candidates = retrieval.Candidates((), every, nothing, nothing, np.zeros(0, np.float32))
    context = features.Context.of(shop, who, candidates)
    return {name: feature(context) for name, feature in features.GROUPS["votes"].items()}


def reference(shop: Bundle, who: Profile, sessions: list[set[int]]) -> NDArray[np.float64]:
    """The same, from the definition."""
    told = np.zeros((4, len(shop.items)))
    held = np.zeros(len(shop.items))
    for inside in sessions:
        shared = inside & set(who.live[0].tolist())
        vote = (
            sum(float(shop.session_knn.match_weights[row]) for row in shared) / len(inside) ** 0.5
        )
        for row in inside:
            told[0, row] += vote
            told[2, row] = max(told[2, row], vote)
            held[row] += 1
    told[1], told[3] = told[0] / told[0].max(), told[0] / np.maximum(held, 1)
    return told


def in_log(shop: Bundle, user: int) -> list[set[int]]:
    knn = shop.session_knn
    return [
        set(knn.items[knn.indptr[row] : knn.indptr[row + 1]].tolist())
        for row in shop.history.visits_of(user)
    ]


def test_sessions_of_the_log_and_live_ones_vote_alike(shop: Bundle) -> None:
    """As the definition has it; an item that the bundle does not know is no part of a session."""
    basket, after = bought("now", 2e9, "i3", "i1", "i5"), shop.cutoff + 1
    earlier = [*bought("a", after, "i3", "new", "i8"), *bought("b", after + 1, "i8", "i1", "i3")]
    who = known(shop, basket, earlier)
    live = [set(shop.items.rows(names).tolist()) for names in (["i3", "i8"], ["i8", "i1", "i3"])]
    own = in_log(shop, who.user)
    assert len(own) > 10
    told = own_votes(shop, who)
    np.testing.assert_allclose([*told.values()], reference(shop, who, own + live), rtol=1e-5)
    alone = own_votes(shop, known(shop, basket, []))
    np.testing.assert_allclose([*alone.values()], reference(shop, who, own), rtol=1e-5)
    new = known(shop, bought("now", 2e9, "i3", user="new"), earlier)
    told = own_votes(shop, new)
    np.testing.assert_allclose([*told.values()], reference(shop, new, live), rtol=1e-5)


def test_a_session_that_training_has_seen_votes_once(shop: Bundle) -> None:
    """Though the store still holds it: what is as old as the bundle is in its log."""
    basket = bought("now", 2e9, "i3", "i1")
    held = bought("a", shop.cutoff, "i3", "i8")
    without, with_held = (own_votes(shop, known(shop, basket, e)) for e in ([], held))
    for name in without:
        np.testing.assert_array_equal(without[name], with_held[name])


def test_without_a_past_or_a_session_nobody_votes(shop: Bundle) -> None:
    """A stranger's basket, and the list before a known user's first line."""
    strange = known(shop, bought("now", 2e9, "i3", user=None), [])
    opening = known(shop, [], bought("a", shop.cutoff + 1, "i3", "i8"))
    for who in (strange, opening):
        assert not any(values.any() for values in own_votes(shop, who).values())


def test_the_latest_sessions_vote(shop: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many only so many: the live ones before those of the log, and of these the last."""
    monkeypatch.setattr(features, "VISITS", 3)
    after = shop.cutoff + 1
    who = known(shop, bought("now", 2e9, "i3", "i1", "i5"), bought("a", after, "i3", "i8"))
    live = set(shop.items.rows(["i3", "i8"]).tolist())
    wanted = reference(shop, who, [live, *in_log(shop, who.user)[:2]])
    np.testing.assert_allclose([*own_votes(shop, who).values()], wanted, rtol=1e-5)
    ends = shop.history.visits_of(who.user)
    assert (np.diff(ends) < 0).all()


def test_an_earlier_session_votes_as_it_was_at_the_moment(shop: Bundle) -> None:
    """A replay tells of the sessions before a request, whatever the user buys after it."""

    def at_the_end_of(basket: str, events: list[Event]) -> list[NDArray[np.float32]]:
        frame = log_frame([msgspec.to_builtins(event) for event in events])
        *_, moment = (m for m in replay(frame) if m.event.session_id == basket)
        who = retrieval.profile(shop, moment.session(shop.config))
        return [*own_votes(shop, who).values()]

    after = shop.cutoff + 1
    before = [*bought("a", after, "i3", "i8"), *bought("b", after + 1, "i3", "i1")]
    later = [*bought("c", after + 2, "i3", "i1", "i9"), *bought("d", after + 3, "i1")]
    known_then, known_later = at_the_end_of("b", before), at_the_end_of("b", before + later)
    np.testing.assert_array_equal(known_then, known_later)
    assert (at_the_end_of("d", before + later)[0] != known_then[0]).any()
