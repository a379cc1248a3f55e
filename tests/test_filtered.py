"""Lists of which only some items may be: filters, hidden items, boosts."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys import retrieval, rules
from recsys.bundle import Bundle
from recsys.config import Config, Placement
from recsys.events import Event, InputError
from recsys.recommend import Recommendation, Request, recommend
from recsys.session import Session
from recsys.training import train
from tests.synthetic import checkerboard, log_frame, small_config
from tests.test_training import RANKED, circle

ITEMS = 2000
NOBODY = Session()


def wide() -> pl.DataFrame:
    """Sessions of known users that walk on round a circle of 2,000 items, each item popular in its
    turn."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for session in range(1500):
        start, steps = int(rng.integers(ITEMS)), int(rng.integers(2, 6))
        walk = [f"i{(start + step) % ITEMS}" for step in range(steps)]
        user = f"u{session % 500}"
        rows += [{"session_id": f"s{session}", "user_id": user, "item_id": item} for item in walk]
    rows += [{"session_id": f"r{item}", "item_id": f"i{item}"} for item in range(ITEMS)]
    return log_frame(rows)


def in_every_way(bundle: Bundle) -> Bundle:
    """The same with a placement for each single source and one for the blend."""
    ways = ["blend", *retrieval.SOURCES]
    single = {name: Placement(exclude=("any",), ranking=name) for name in ways}
    diverse = {"diverse": Placement(diversity=0.7)}
    config = dataclasses.replace(
        bundle.config, placements={**bundle.config.placements, **single, **diverse}
    )
    return dataclasses.replace(bundle, config=config)


PLACEMENTS = [*Config().placements, "blend", *retrieval.SOURCES, "diverse"]


@pytest.fixture(scope="module")
def large() -> Bundle:
    bundle = in_every_way(train(wide(), small_config(**RANKED, session_index={"kind": "ivf"})))
    assert len(bundle.forest.leaves)
    assert len(bundle.items) == ITEMS
    return bundle


@pytest.fixture(scope="module")
def small() -> list[Bundle]:
    """Bundles whose lists a blend and a forest rank."""
    bundles = [train(checkerboard(), small_config()), train(circle(), small_config(**RANKED))]
    return [in_every_way(bundle) for bundle in bundles]


def session_of(*items: str, user: str | None = None) -> Session:
    events = [Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)]
    return Session.from_events(events, user_id=user)


SESSIONS = [NOBODY, session_of("i7", "i8"), session_of(user="u3"), session_of("i9", user="u4")]


def mask_of(bundle: Bundle, *items: str) -> np.ndarray:
    mask = np.zeros(len(bundle.items), dtype=np.bool_)
    mask[bundle.items.rows(items)] = True
    return mask


def untimed(answer: Recommendation) -> Recommendation:
    return dataclasses.replace(answer, timings={})


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_filter_that_keeps_few_still_fills_the_list(large: Bundle, placement: str) -> None:
    """Of 2,000 items two are allowed, wherever they are: both come, and nothing else."""
    rng = np.random.default_rng(1)
    for session in SESSIONS:
        user = retrieval.profile(large, session).user
        rules_of = large.config.placements[placement]
        out = rules.excluded(large, session, rules_of, user, ())
        for _ in range(5):
            kept = rng.choice(np.setdiff1d(np.arange(ITEMS), out), 2, replace=False)
            allowed = np.isin(np.arange(ITEMS), kept)
            answer = recommend(large, session, Request(2, placement, allowed=allowed))
            assert sorted(answer.item_ids) == sorted(large.items.ids(kept))
            assert np.isfinite(answer.scores).all()


def test_what_is_searched_for_is_nearest_to_the_visitor(large: Bundle) -> None:
    """Too few of the allowed were proposed: those most alike to the session join them."""
    allowed = mask_of(large, *(f"i{k}" for k in range(0, ITEMS, 10)))
    who = retrieval.profile(large, session_of("i9"))
    rows = retrieval.among(large, who, 20, allowed)
    likeness = large.session_embedding.item_vectors @ who.taste
    likeness[~allowed] = -np.inf
    assert set(np.argsort(-likeness)[:20].tolist()) <= set(rows.tolist())
    assert allowed[rows].all()
    answer = recommend(large, session_of("i9"), Request(n=20, allowed=allowed))
    assert "session_embedding" in answer.reasons


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_n_items_come_whenever_so_many_may_be_shown(
    small: list[Bundle], data: st.DataObject
) -> None:
    """For any mask, ranking, session and exclusions: allowed items only, each once, n or all."""
    bundle = data.draw(st.sampled_from(small))
    ids = bundle.items.ids(range(len(bundle.items)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    excluded = data.draw(st.sets(st.sampled_from(ids), max_size=5))
    wanted = Request(
        n=data.draw(st.integers(1, 25)),
        placement=data.draw(st.sampled_from(PLACEMENTS)),
        item_id=data.draw(st.none() | st.sampled_from(ids)),
        exclude=tuple(excluded),
        allowed=allowed,
        explain=True,
    )
    session = data.draw(st.sampled_from(SESSIONS))
    answer = recommend(bundle, session, wanted)
    free = dataclasses.replace(wanted, n=1000, allowed=None)
    may = set(recommend(bundle, session, free).item_ids)
    right = may & {item for item, held in zip(ids, allowed, strict=True) if held}
    assert set(answer.item_ids) <= right
    assert len(answer.item_ids) == len(set(answer.item_ids)) == min(wanted.n, len(right))
    assert np.isfinite(answer.scores).all()
    assert len(answer.features) == len(answer.reasons) == len(answer.item_ids)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_mask_of_everything_is_none(small: list[Bundle], placement: str) -> None:
    """What forbids nothing changes nothing, down to the last bit."""
    for bundle in small:
        for session in SESSIONS:
            wanted = Request(n=7, placement=placement, explain=True)
            everything = np.ones(len(bundle.items), dtype=np.bool_)
            masked = recommend(bundle, session, dataclasses.replace(wanted, allowed=everything))
            assert untimed(masked) == untimed(recommend(bundle, session, wanted))


def test_a_hidden_item_leaves_the_others_as_they_are(small: list[Bundle], large: Bundle) -> None:
    """The ranker's list is the one without a filter, less what is hidden, scores included."""
    for bundle in (small[1], large):
        for session in (session_of("i7", "i8"), session_of("i3")):
            whole = recommend(bundle, session, Request(n=10))
            hidden = whole.item_ids[2]
            wanted = Request(n=9, allowed=~mask_of(bundle, hidden))
            answer = recommend(bundle, session, wanted)
            assert answer.tier == "ranker"
            left = [k for k, item in enumerate(whole.item_ids) if item != hidden]
            assert answer.item_ids == [whole.item_ids[k] for k in left]
            assert answer.scores == [whole.scores[k] for k in left]
            assert answer.reasons == [whole.reasons[k] for k in left]


def test_one_source_keeps_its_order_under_a_filter(large: Bundle) -> None:
    """The allowed items of all that it would propose, however far behind, then popular ones."""
    session = session_of("i7", "i8", user="u3")
    allowed = np.random.default_rng(0).random(ITEMS) < 0.3
    who = retrieval.profile(large, session)
    allowed[who.live[0]] = False
    for source in retrieval.SOURCES:
        proposed, _ = retrieval.SOURCES[source](large, who, ITEMS)
        right = large.items.ids(proposed[allowed[proposed]])[:12]
        wanted = Request(n=12, placement=source, allowed=allowed)
        answer = recommend(large, session, wanted).item_ids
        assert len(answer) == 12
        if source != "session_embedding":  # approximate without a filter, exact with one
            assert answer[: len(right)] == right


def test_a_mask_of_another_bundle_is_refused(small: list[Bundle]) -> None:
    """Masks are over the rows of one bundle."""
    short = np.ones(3, dtype=np.bool_)
    for wanted in (Request(allowed=short), Request(boosts=((short, 2.0),))):
        with pytest.raises(ValueError, match="3 rows for a bundle of 20 items"):
            recommend(small[0], NOBODY, wanted)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_boosts_lift_and_sink(large: Bundle, placement: str) -> None:
    """More than 1 lifts, less sinks, 1 leaves the list as it is, two that hold multiply."""
    session = session_of("i7", "i8", user="u3")
    wanted = Request(n=30, placement=placement, diversity=0.0)
    whole = recommend(large, session, wanted)
    if len(set(whole.scores)) == 1:
        return  # a source that proposed nothing: there is no deviation
    low = whole.item_ids[-5:]
    mask = mask_of(large, *low)

    def boosted(*factors: float) -> Recommendation:
        boosts = tuple((mask, factor) for factor in factors)
        return recommend(large, session, dataclasses.replace(wanted, boosts=boosts))

    def places(answer: Recommendation) -> int:
        ids = answer.item_ids
        return sum(ids.index(item) if item in ids else len(ids) for item in low)

    assert boosted(1.0).item_ids == whole.item_ids
    assert places(boosted(10.0)) <= places(boosted(3.0)) <= places(whole) <= places(boosted(0.3))
    assert places(boosted(10.0)) < places(whole)
    assert boosted(2.0, 3.0).scores == pytest.approx(boosted(6.0).scores)
    assert boosted(10.0).scores == sorted(boosted(10.0).scores, reverse=True)


def test_boosted_items_keep_their_order(large: Bundle) -> None:
    """A boost moves a group against the others, not within itself, and is explained."""
    wanted = Request(n=30, explain=True)
    session = session_of("i7", "i8")
    whole = recommend(large, session, wanted)
    group = whole.item_ids[10:20]
    boosts = ((mask_of(large, *group), 8.0),)
    answer = recommend(large, session, dataclasses.replace(wanted, boosts=boosts))
    assert [item for item in answer.item_ids if item in group] == group
    others = [item for item in answer.item_ids if item not in group]
    assert others == [item for item in whole.item_ids if item in others]
    own = dict(zip(whole.item_ids, whole.scores, strict=True))
    for item, score, parts in zip(answer.item_ids, answer.scores, answer.features, strict=True):
        assert (parts["boost"] > 0) == (item in group)
        if item in own:
            assert score == pytest.approx(own[item] + parts["boost"], abs=1e-6)


@pytest.mark.parametrize("factor", [0.05, 11.0, float("nan")])
def test_a_boost_beyond_its_bounds_is_refused(small: list[Bundle], factor: float) -> None:
    """The error names the field, its bounds and what was given."""
    everything = np.ones(20, dtype=np.bool_)
    with pytest.raises(InputError, match=r"factor: must be from 0\.1 to 10\.0, got"):
        recommend(small[0], NOBODY, Request(boosts=((everything, factor),)))
