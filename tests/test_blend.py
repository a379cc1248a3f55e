"""The blend: its parts, their scale and their weights."""

import dataclasses

import numpy as np
import pytest

from recsys import blend, retrieval
from recsys.bundle import Bundle
from recsys.config import BLEND, BlendConfig
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.split import split
from recsys.events import Event
from recsys.logs import log_from_frame
from recsys.recommend import Request, recommend
from recsys.retrieval import NO_ROWS
from recsys.session import Session
from recsys.training import train
from tests.synthetic import checkerboard, small_config, walks

VIEWING = Session.from_events([Event("view", "s", "i2"), Event("view", "s", "i4")], user_id="u1")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(checkerboard(), small_config())


def parts(bundle: Bundle, session: Session) -> dict[str, retrieval.Floats]:
    parts = blend.rank(bundle, retrieval.profile(bundle, session), 20, NO_ROWS).parts
    return dict(zip(parts.names, parts.values, strict=True))


def test_the_best_of_every_part_counts_its_weight(bundle: Bundle) -> None:
    """With a session and a past, each part reaches exactly its configured weight; those that the
    order of events tells of share it out."""
    weights = bundle.config.blend.weights
    told = parts(bundle, VIEWING)
    found = {
        name: float(part.sum() if name in blend.IN_ORDER else part.max())
        for name, part in told.items()
    }
    assert found == pytest.approx(weights, rel=1e-5)


def test_where_the_order_is_ignored_nothing_is_asked_that_needs_it(bundle: Bundle) -> None:
    """A basket has the parts of one without order."""
    order = dataclasses.replace(bundle.config.session, order="ignored")
    baskets = dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, session=order))
    assert set(parts(baskets, VIEWING)) == set(BLEND) - set(blend.IN_ORDER)
    shuffled = dataclasses.replace(bundle, facts=dataclasses.replace(bundle.facts, in_order=False))
    assert set(parts(shuffled, VIEWING)) == set(BLEND) - set(blend.IN_ORDER)


def test_order_makes_a_small_log_worth_more() -> None:
    """Too few requests for a ranker: what followed in other sessions is what comes next."""
    cut = split(log_from_frame(walks(60)), "0.3")
    small = train(cut.train, small_config())
    assert small.facts.ranker.startswith("blend: ")
    without = BlendConfig(weights=dict.fromkeys(blend.IN_ORDER, 0.0))
    less = dataclasses.replace(small, config=dataclasses.replace(small.config, blend=without))
    mark, lower = (evaluate(b, cut.test).systems["full"]["ndcg@20"] for b in (small, less))
    assert mark > lower


def test_without_a_session_the_past_speaks_in_its_place(bundle: Bundle) -> None:
    """Neighbours of the past weigh most of what those of the session would; with one, their own."""
    weights = bundle.config.blend.weights
    usual = parts(bundle, Session(user_id="u1"))
    assert usual["item_knn_past"].max() == pytest.approx(blend.PAST_ALONE * weights["item_knn"])
    assert not usual["item_knn"].any()
    assert weights["item_knn_past"] < weights["item_knn"]


def test_what_may_not_be_shown_is_no_measure(bundle: Bundle) -> None:
    """The best of what may be shown reaches the weight; what is out may be above it."""
    factors = np.random.default_rng(0).random(bundle.embedding.item_factors.shape, dtype=np.float32)
    uneven = dataclasses.replace(bundle.embedding, item_factors=factors)
    bundle = dataclasses.replace(bundle, embedding=uneven)
    who = retrieval.profile(bundle, VIEWING)
    usual = blend.rank(bundle, who, 20, NO_ROWS)
    place = usual.parts.names.index("embedding")
    taken = usual.parts.values[place] >= np.sort(usual.parts.values[place])[-3]
    out = np.append(usual.rows[taken], np.int32(10**6))  # one that is no candidate
    embedding = blend.rank(bundle, who, 20, out).parts.values[place]
    weight = bundle.config.blend.weights["embedding"]
    assert embedding[~taken].max() == pytest.approx(weight)
    assert embedding[taken].min() > weight


def test_who_is_sure_counts_more(bundle: Bundle) -> None:
    """A source's one certain item gets all of its weight, of many each gets a share."""
    few = dataclasses.replace(bundle.config, blend=BlendConfig(in_order=1))
    facts = dataclasses.replace(bundle.facts, metrics={"revisit_rate": 1.0})
    sure = dataclasses.replace(bundle, config=few, facts=facts)
    for name in blend.IN_ORDER:
        weight = bundle.config.blend.weights[name]
        assert parts(sure, VIEWING)[name].max() == pytest.approx(weight, rel=1e-5)
        assert parts(bundle, VIEWING)[name].max() < weight


def test_of_a_filter_each_source_says_what_it_knows(bundle: Bundle) -> None:
    """What may be shown is searched, so that one leftover of a few does not get all the weight."""
    few = dataclasses.replace(bundle.config, blend=BlendConfig(in_order=3))
    narrow = dataclasses.replace(bundle, config=few)
    who = retrieval.profile(narrow, VIEWING)
    allowed = np.zeros(len(bundle.items), dtype=np.bool_)
    allowed[bundle.items.rows(["i6", "i8", "i10", "i1"])] = True
    ranked = blend.rank(narrow, who, 2, NO_ROWS, allowed)
    for name in ("session_knn", "session_embedding"):
        part = ranked.parts.values[ranked.parts.names.index(name)]
        assert np.count_nonzero(part) == 3
        assert part.sum() == pytest.approx(few.blend.weights[name], rel=1e-5)


def test_nobody_has_no_part_but_popularity(bundle: Bundle) -> None:
    """A stranger's parts of taste are zero, not what a division by nothing leaves."""
    nobody = parts(bundle, Session())
    assert {name for name, part in nobody.items() if part.any()} == {"popularity", "recent"}


def test_own_items_are_candidates_however_rare(bundle: Bundle) -> None:
    """What a known user came back to is ranked even where no other part proposes it."""
    few = BlendConfig(item_knn=1, popular=1)
    small = dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, blend=few))
    who = retrieval.profile(small, Session(user_id="u1"))
    assert set(who.past[0].tolist()) <= set(blend.rank(small, who, 0, NO_ROWS).rows.tolist())


def test_scale_of_the_embedding_does_not_matter(bundle: Bundle) -> None:
    """Factors twice as long give the same list: parts are relative."""
    long = dataclasses.replace(bundle.embedding, item_factors=bundle.embedding.item_factors * 2)
    longer = dataclasses.replace(bundle, embedding=long)
    request = Request(n=20)
    assert (
        recommend(longer, VIEWING, request).item_ids == recommend(bundle, VIEWING, request).item_ids
    )
