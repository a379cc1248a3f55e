"""Session sources: each against its formula or an obvious answer."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import SessionEmbeddingConfig, SessionKnnConfig, TransitionsConfig
from recsys.interactions import Sequences
from recsys.models import session_embedding, session_knn, tally, transitions

Rows = np.ndarray


def sequences(*sessions: list[int]) -> Sequences:
    lengths = [len(s) for s in sessions]
    return Sequences(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([row for s in sessions for row in s], dtype=np.int32),
    )


def rows(*items: int) -> Rows:
    return np.array(items, dtype=np.int32)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=60, unique_by=lambda x: x[0]
    ),
    st.integers(0, 70),
)
def test_best_is_a_sorted_prefix(entries: list[tuple[int, int]], k: int) -> None:
    """The k best are those of a full sort, ties by row."""
    found = tally.best(
        rows(*(r for r, _ in entries)),
        np.array([s for _, s in entries], dtype=np.float32),
        k,
    )
    expected = sorted(entries, key=lambda e: (-e[1], e[0]))[:k]
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected


@pytest.mark.parametrize("others", [0, 200])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_votes_are_weighted_sums(others: int, seed: int) -> None:
    """Every vote is the sum over the voters that have the row as neighbour, be the items few or too
    many for a place each."""
    rng = np.random.default_rng(seed)
    near = np.array([rng.permutation(12)[:4] for _ in range(12)], dtype=np.int32)
    near[rng.random(12) < 0.3, 2:] = -1
    near = np.concatenate([near, np.full((others, 4), -1, dtype=np.int32)])
    values = rng.random(near.shape).astype(np.float32)
    voters = rng.integers(0, 12, 5).astype(np.int32)
    weights = rng.random(5).astype(np.float32)
    truth = np.zeros(12)
    for voter, weight in zip(voters, weights, strict=True):
        for neighbour, value in zip(near[voter], values[voter], strict=True):
            if neighbour >= 0:
                truth[neighbour] += weight * value
    there = near >= 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    found, scores = tally.vote(starts, near[there], values[there], voters, weights, 12)
    np.testing.assert_allclose(scores, truth[found], rtol=1e-5)
    assert set(found.tolist()) == set(np.flatnonzero(truth).tolist())
    assert (np.diff(scores) <= 0).all()


def test_transitions_are_shares_of_distance_weighted_steps() -> None:
    """Forward steps count 1, then less with distance; backward ones less still."""
    config = TransitionsConfig(distance_decay=0.5, backward=0.1, age_decay=0.0, neighbours=5)
    model = transitions.fit(sequences([0, 1, 2], [0, 2]), 3, config)
    assert model.starts.tolist() == [0, 2, 4, 6]
    assert model.neighbours[:2].tolist() == [2, 1]
    np.testing.assert_allclose(model.shares[:2], [1.5 / 2.5, 1 / 2.5], rtol=1e-5)
    np.testing.assert_allclose(model.shares[2:4], [1 / 1.1, 0.1 / 1.1], rtol=1e-5)
    found, scores = transitions.propose(model, rows(1, 0), config, 3)
    assert found[0] == 2
    assert scores[0] == pytest.approx(1 / 1.1 + config.decay * 1.5 / 2.5, rel=1e-5)


def naive_session_knn(
    sessions: list[list[int]], query: list[int], config: SessionKnnConfig
) -> dict[int, float]:
    """The formula, read off the docstring of the configuration."""
    items = sorted({i for s in sessions for i in s})
    degree = {i: sum(i in s for s in sessions) for i in items}
    idf = {i: max(np.log(len(sessions) / degree[i]), 0.1) for i in items}
    scored = []
    for number, session in enumerate(sessions):
        matches = [(p, i) for p, i in enumerate(query) if i in session and i not in query[:p]]
        if not matches:
            continue
        similarity = sum(np.exp(-config.decay * p) * idf[i] ** config.match_idf for p, i in matches)
        similarity *= np.exp(-config.age_decay * (len(sessions) - number) / len(sessions))
        similarity /= len(session) ** config.length_power
        here = len(session) - 1 - session[::-1].index(matches[0][1])
        scored.append((similarity, -number, session, here))
    votes: dict[int, float] = {}
    for similarity, _, session, here in scored:
        for place, item in enumerate(session):
            away = place - here
            factor = 1.0
            if away > 0:
                factor = np.exp(-config.forward_decay * (away - 1))
            elif away < 0:
                factor = np.exp(config.backward_decay * away)
            votes[item] = votes.get(item, 0.0) + similarity * factor
    return {item: vote * idf[item] ** config.vote_idf for item, vote in votes.items()}


@pytest.mark.parametrize("others", [0, 200])
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=2, max_size=12),
    st.lists(st.integers(0, 7), min_size=1, max_size=5),
)
def test_session_knn_follows_its_formula(
    others: int, sessions: list[list[int]], query: list[int]
) -> None:
    """With room for every neighbour, votes equal the formula written naively, be sessions and
    items few or too many for a place each."""
    config = SessionKnnConfig()
    sessions = [[8]] * others + sessions
    model = session_knn.fit(sequences(*sessions), 9 + 5 * others, config)
    found, scores = session_knn.propose(model, rows(*query), config, 8)
    known = [i for i in query if any(i in s for s in sessions)]
    truth = naive_session_knn(sessions, query, config) if known else {}
    assert dict.fromkeys(found.tolist()).keys() == truth.keys()
    for item, score in zip(found.tolist(), scores.tolist(), strict=True):
        assert score == pytest.approx(truth[item], rel=1e-4)


def test_session_knn_keeps_the_latest_sessions() -> None:
    """Beyond its capacity per item, the index forgets the oldest."""
    config = SessionKnnConfig(sessions_per_item=1)
    model = session_knn.fit(sequences([0, 1], [0, 2]), 3, config)
    assert 1 not in session_knn.propose(model, rows(0), config, 3)[0].tolist()


PATTERN = [[k % 10, (k + 1) % 10, (k + 2) % 10] for k in range(10)] * 60


def test_steps_that_count_for_nothing_are_none() -> None:
    """Where only what comes after counts, an item that is last everywhere leads nowhere."""
    model = transitions.fit(sequences([0, 1], [0, 1]), 3, TransitionsConfig(backward=0.0))
    assert model.starts.tolist() == [0, 1, 1, 1]
    assert (model.neighbours.tolist(), model.shares.tolist()) == ([1], [1.0])


def _next_by_transitions(query: Rows) -> Rows:
    config = TransitionsConfig()
    return transitions.propose(transitions.fit(sequences(*PATTERN), 10, config), query, config, 3)[
        0
    ]


def _next_by_session_knn(query: Rows) -> Rows:
    config = SessionKnnConfig()
    found = session_knn.propose(
        session_knn.fit(sequences(*PATTERN), 10, config), query, config, 10
    )[0]
    return found[~np.isin(found, query)]


def _next_by_session_embedding(query: Rows) -> Rows:
    config = SessionEmbeddingConfig(embedding_size=16, negatives=32, batch=64, epochs=12)
    model = session_embedding.fit(sequences(*PATTERN), 10, config, seed=1)
    vector = session_embedding.session_vector(model, query)
    found = np.argsort(-(model.item_vectors @ vector))
    return found[~np.isin(found, query)]


@pytest.mark.parametrize(
    "follow", [_next_by_transitions, _next_by_session_knn, _next_by_session_embedding]
)
def test_a_circle_is_learnt(follow: Callable[[Rows], Rows]) -> None:
    """In a world where k + 1 follows k, every source proposes it first or second."""
    assert 5 in follow(rows(4, 3))[:2].tolist()


def test_session_embedding_is_reproducible() -> None:
    """The same seed gives the same bytes; each epoch ticks; unused items have no vector."""
    config = SessionEmbeddingConfig(embedding_size=8, negatives=16, batch=32, epochs=2)
    ticks: list[int] = []
    fit = [
        session_embedding.fit(sequences(*PATTERN), 12, config, seed, lambda: ticks.append(1))
        for seed in (1, 1, 2)
    ]
    assert fit[0].item_vectors.tobytes() == fit[1].item_vectors.tobytes()
    assert fit[0].item_vectors.tobytes() != fit[2].item_vectors.tobytes()
    assert len(ticks) == 6
    assert not fit[0].item_vectors[10:].any()
    assert not session_embedding.session_vector(fit[0], rows()).any()
