"""Items that a bundle does not know are recommended for what the stream says of them."""

import dataclasses
import itertools
import random
from typing import Any

import numpy as np
import polars as pl
import pytest
from msgspec import structs

from recsys import features, ranking, retrieval, rules, training
from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates, ranking_by
from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.config import Placement
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.replay import replay
from recsys.evaluation.split import split
from recsys.events import Event
from recsys.filters import Beyond, Boost, Filter, Masks, filter_of
from recsys.items import Item
from recsys.logs import log_from_frame
from recsys.newcomers import newcomers
from recsys.recommend import Recommendation, Request, filled, recommend, similar
from recsys.session import Session
from recsys.training import train
from tests.synthetic import log_frame, small_config, walks
from tests.test_training import RANKED

LATER = 1_700_100_000.0
EARLY = 40


def coming() -> pl.DataFrame:
    """Walks on which every fourth item comes in a new edition now and then."""
    frame = walks(400, items=EARLY)
    edition = pl.col("session_id").str.slice(1).cast(pl.Int64) // 80
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    new = pl.format("n{}-{}", edition, number)
    return frame.with_columns(item_id=pl.when(number % 4 == 0).then(new).otherwise("item_id"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """It has learned that what the stream says of newcomers is right."""
    trained = train(coming(), small_config(**RANKED))
    assert trained.facts.ranker.startswith("forest of")
    assert trained.config.retrieval.newcomers == 10
    return trained


def told(bundle: Bundle, *visits: str) -> Aggregates:
    """What the stream says after these visits, each a few items."""
    rows = [
        {"session_id": f"v{k}", "item_id": item, "timestamp": LATER + 10 * k + step}
        for k, visit in enumerate(visits)
        for step, item in enumerate(visit.split())
    ]
    return LogFold(log_frame(rows), ranking_by(bundle.config), bundle.config.events).advance()


def visitor(bundle: Bundle, state: Aggregates | None, *items: str) -> Session:
    events = [Event("view", "s", item, timestamp=LATER + k) for k, item in enumerate(items)]
    return Session.from_events(events, config=bundle.config.session, aggregates=state)


def asked(bundle: Bundle, state: Aggregates | None, *items: str, **wanted: Any) -> list[str]:
    return recommend(bundle, visitor(bundle, state, *items), Request(**wanted)).item_ids


STEPS = ("i5 new", "i5 new", "i5 new i6", "i5 i6")


def test_what_others_went_on_to_is_recommended(bundle: Bundle) -> None:
    """A bundle that was trained before the item was there recommends it high, with a reason, to
    whoever is where they were."""
    state = told(bundle, *STEPS)
    answer = recommend(bundle, visitor(bundle, state, "i5"), Request())
    assert "new" in answer.item_ids[:3]
    place = answer.item_ids.index("new")
    assert answer.reasons[place] == "newcomers"
    assert answer.reasons.count("newcomers") == 1
    assert answer.scores == sorted(answer.scores, reverse=True)
    assert len(set(answer.item_ids)) == len(answer.item_ids) == 20
    assert "new" not in asked(bundle, state, "i25")
    assert "new" not in asked(bundle, None, "i5")


def test_who_is_on_a_new_item_gets_what_comes_after_it(bundle: Bundle) -> None:
    """Although no source of the bundle knows anything of it."""
    state = told(bundle, *["new i30"] * 4, "new i31")
    assert "i30" in asked(bundle, state, "i2", "new")[:5]
    assert asked(bundle, state, "i2", "new") != asked(bundle, state, "i2")


def test_a_session_of_new_items_alone_is_ranked(bundle: Bundle) -> None:
    """The bundle knows nothing of it, the stream does; where that does not either, popular items
    come."""
    state = told(bundle, *["new i30"] * 4, "new newer")
    answer = recommend(bundle, visitor(bundle, state, "new"), Request())
    assert answer.tier == "ranker"
    assert {"i30", "newer"} <= set(answer.item_ids[:3])
    assert len(answer.item_ids) == 20
    unheard = recommend(bundle, visitor(bundle, state, "unheard"), Request())
    assert unheard.tier == "popular"


def test_items_like_a_new_one(bundle: Bundle) -> None:
    """What comes after it in the stream; of an item that nobody has heard of there are none."""
    state = told(bundle, *["new i30"] * 4, "new newer")
    answer = similar(bundle, "new", 5, aggregates=state)
    assert {"i30", "newer"} <= set(answer.item_ids[:3])
    assert "new" not in answer.item_ids
    with pytest.raises(KeyError):
        similar(bundle, "new")
    with pytest.raises(KeyError):
        similar(bundle, "unheard", aggregates=state)


def test_the_sessions_own_may_come_again(bundle: Bundle) -> None:
    """Where the placement lets items come again, and not in those that do not."""
    state = told(bundle, "i9 new i9 new")
    continues = asked(bundle, state, "i3", "new", "i4", placement="continue")
    assert "new" in continues
    assert "new" not in asked(bundle, state, "i3", "new", "i4", placement="discover")


def test_rules_hold_for_them(bundle: Bundle) -> None:
    """What the request leaves out, what was refused, and a placement's sources."""
    state = told(bundle, *STEPS)
    assert "new" not in asked(bundle, state, "i5", exclude=("new",))
    refused = visitor(bundle, state, "new", "i5")
    refused = dataclasses.replace(
        refused, current=structs.replace(refused.current, rejected=frozenset({"new"}))
    )
    assert "new" not in recommend(bundle, refused, Request(placement="continue")).item_ids
    for sources, there in ((("transitions",), False), (("transitions", "newcomers"), True)):
        placements = {**bundle.config.placements, "some": Placement(sources=sources)}
        config = dataclasses.replace(bundle.config, placements=placements)
        some = dataclasses.replace(bundle, config=config)
        assert ("new" in asked(some, state, "i5", placement="some")) == there
    off = dataclasses.replace(bundle.config.retrieval, newcomers=0)
    config = dataclasses.replace(bundle.config, retrieval=off)
    assert "new" not in asked(dataclasses.replace(bundle, config=config), state, "i5")


def of_catalogue(
    bundle: Bundle, wanted: Filter | None = None, **items: Item
) -> tuple[Masks, dict[str, Any]]:
    catalog = Catalog()
    for item_id, item in items.items():
        catalog.upsert(item_id, item)
    masks = Masks(catalog)
    return masks, {"allowed": masks.of(bundle.items, wanted), "beyond": Beyond(masks, wanted)}


def test_the_catalogue_has_the_last_word(bundle: Bundle) -> None:
    """Hidden, not named although others are, or not what the filter asks for: not shown."""
    state = told(bundle, *STEPS)
    named, hidden, dear = Item(price=5.0), Item(visible=False), Item(price=50.0)
    cheap = filter_of({"price": {"lt": 10}})
    for catalogue, wanted, there in (
        ({}, None, True),
        ({"new": named}, None, True),
        ({"new": hidden}, None, False),
        ({"i5": named}, None, False),
        ({"new": named, "i6": named}, cheap, True),
        ({"new": dear, "i6": named}, cheap, False),
    ):
        masks, given = of_catalogue(bundle, wanted, **catalogue)
        request = Request(**given)
        session = visitor(bundle, state, "i5")
        answer = recommend(bundle, session, request)
        assert ("new" in answer.item_ids) == there, (catalogue, wanted)
        full = filled(answer, bundle, session, request, masks, wanted).item_ids
        assert len(full) == len(set(full))
    # Who says nothing of items beyond the bundle while a mask is given gets none.
    assert "new" not in asked(bundle, state, "i5", allowed=np.ones(len(bundle.items), bool) ^ True)


def test_boosts_and_diversity_take_them_in(bundle: Bundle) -> None:
    """A boost lifts them as it lifts others; a diverse list may hold them."""
    state = told(bundle, *["i5 i6"] * 9, "i5 new")
    masks, _ = of_catalogue(bundle, new=Item(category=("hats",)))
    boost = Boost(filter_of({"category": "hats"}), 10.0)
    mask = masks.of(bundle.items, boost.filter)
    assert mask is not None
    plain = Request(beyond=Beyond(masks))
    boosted = Request(beyond=Beyond(masks, boosts=(boost,)), boosts=((mask, 10.0),))
    scores = []
    for request in (plain, boosted):
        answer = recommend(bundle, visitor(bundle, state, "i5"), request)
        scores.append(dict(zip(answer.item_ids, answer.scores, strict=True)))
    assert scores[1].pop("new") > scores[0].pop("new")
    assert all(scores[1][item] == scores[0].get(item, scores[1][item]) for item in scores[1])
    assert "new" in asked(bundle, told(bundle, *STEPS), "i5", diversity=0.5)


def explained(bundle: Bundle, session: Session) -> tuple[Recommendation, dict[str, float]]:
    answer = recommend(bundle, session, Request(explain=True, n=100))
    return answer, answer.features[answer.item_ids.index("new")]


def test_their_features(bundle: Bundle) -> None:
    """What the session is they share with others; what the stream says is theirs; the rest is that
    of an item that nothing is known of."""
    state = told(bundle, "i5 new i6", "i5 new i6", "i5 new i7")
    answer, own = explained(bundle, visitor(bundle, state, "i5", "new", "i5"))
    other = answer.features[answer.item_ids.index("i6")]
    for name in ("events", "distinct_items", "repeats", "last_popularity"):
        assert own[name] == other[name], name
    assert (own["times_touched"], own["events_since_touched"]) == (1, 1)
    assert (own["led_to_last"], own["followed_last"], own["popularity"]) == (0, 1, 0)
    assert (own["age"], own["freshness"]) == (1, 1)
    retrieval_config = bundle.config.retrieval
    assert own["session_knn_rank"] == retrieval_config.session_knn
    assert own["live_co_viewed_now"] == pytest.approx(3, rel=0.01)
    assert own["live_co_viewed_now_share"] == pytest.approx(1, rel=0.01)
    assert own["live_trending"] == pytest.approx(3, rel=0.01)
    vectors = bundle.session_embedding.item_vectors[bundle.items.rows(["i6", "i7", "i5"])]
    mean = 2 * vectors[0] + vectors[1]
    cosine = float(mean / np.linalg.norm(mean) @ vectors[2])
    assert own["last_cosine"] == pytest.approx(cosine, abs=1e-3)
    assert set(own) == set(features.features_of(bundle.config))


def test_the_order_of_arrival_does_not_matter(bundle: Bundle) -> None:
    """A worker's copy numbers items as they came, a replay in order of time: the lists are the
    same, with more newcomers than are taken."""
    visits = [f"i5 x{k}" for k in range(30)] + ["i5 x7"] * 3
    declared, events = ranking_by(bundle.config), bundle.config.events
    rows = [
        {"session_id": f"v{k}", "item_id": item, "timestamp": LATER + step}
        for k, visit in enumerate(visits)
        for step, item in enumerate(visit.split())
    ]
    answers = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        state = LogFold(log_frame(shuffled), declared, events).advance()
        answers.append(recommend(bundle, visitor(bundle, state, "i5"), Request(n=30)))
    first = answers[0]
    assert first.reasons.count("newcomers") == bundle.config.retrieval.newcomers
    assert [(a.item_ids, a.scores) for a in answers] == [(first.item_ids, first.scores)] * 3


def test_the_ranker_learns_from_them() -> None:
    """In the replay of a tail, items that its head does not know are candidates, and right where
    they came next; none knows the future."""
    config = small_config(**RANKED).settled(simultaneous=False)
    cut = split(log_from_frame(coming()), "0.3")
    head = train(cut.train, config)
    found = training.replayed(head, cut.test, config)
    none = dataclasses.replace(config.retrieval, newcomers=0)
    without = training.replayed(
        dataclasses.replace(head, config=dataclasses.replace(head.config, retrieval=none)),
        cut.test,
        dataclasses.replace(config, retrieval=none),
    )
    assert found.labels.sum() > without.labels.sum() + 20
    # The rows of a request stand together, those of newcomers last.
    assert len(found.table) > len(without.table)


def test_no_list_knows_the_future() -> None:
    """Whatever comes later, newcomers of a moment are those that were there."""
    frame = coming()
    config = small_config(**RANKED)
    bundle = train(frame.head(6 * 200), config)
    tail = frame.slice(6 * 200, 600)
    other = tail.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) < 300)
        .then("item_id")
        .otherwise(pl.col("item_id") + "z")
    )
    lists = []
    for log in (tail, other):
        fold = LogFold(log, ranking_by(bundle.config), bundle.config.events)
        moments = itertools.islice(replay(log, fold=fold), 300)
        sessions = (moment.session(bundle.config) for moment in moments)
        lists.append([recommend(bundle, session, Request()).item_ids for session in sessions])
    assert lists[0] == lists[1]
    shown = {item for items in lists[0] for item in items}
    assert len(shown - set(bundle.items.ids(range(len(bundle.items))))) > 5


def test_an_evaluation_counts_them() -> None:
    """One that was in the list is a hit, although training never saw it."""
    cut = split(log_from_frame(coming()), "0.3")
    trained = train(cut.train, small_config(**RANKED))
    off = dataclasses.replace(trained.config.retrieval, newcomers=0)
    config = dataclasses.replace(trained.config, retrieval=off)
    rates = []
    for one in (trained, dataclasses.replace(trained, config=config)):
        found = evaluate(one, cut.test, before=cut.train, max_sessions=60)
        rates.append(found.systems["full"]["hr@20"])
    assert rates[0] > rates[1] + 0.05


@pytest.mark.parametrize(("residue", "there"), [(0.0, False), (1e-17, False), (1.0, True)])
def test_what_rounding_leaves_is_nothing(bundle: Bundle, residue: float, there: bool) -> None:
    """A step that was taken out of the counts, but for the last bits, proposes nothing."""
    state = told(bundle, "i5 new", "i5 i6")
    steps = state.steps["co_viewed_now"]
    row = steps.link(*state.numbers_of(["i5", "new"]).tolist())
    state.tables["co_viewed_now"].first[row] = residue
    assert ("new" in asked(bundle, state, "i5")) == there


def test_what_no_aggregate_counts_is_not_heard_of(bundle: Bundle) -> None:
    """A replay knows all ids of a log from the start, a worker those that count."""
    declared = tuple(dataclasses.replace(a, types=("view",)) for a in ranking_by(bundle.config))
    rows = [{"session_id": "s", "item_id": "new", "type": "wishlist", "timestamp": LATER}]
    states = [
        LogFold(log_frame(seen), declared, bundle.config.events).advance() for seen in (rows, [])
    ]
    event = Event("wishlist", "s", "new", timestamp=LATER)
    lists = [
        recommend(
            bundle, Session.from_events([event], aggregates=state), Request(placement="continue")
        )
        for state in states
    ]
    assert [answer.tier for answer in lists] == ["popular", "popular"]
    assert lists[0].item_ids == lists[1].item_ids


def test_only_the_ranker_knows_them(bundle: Bundle) -> None:
    """Without it no list claims to reflect a session of new items, and none are like them."""
    plain = train(coming(), small_config(ranker={"enabled": False}))
    state = told(plain, *["new i30"] * 4)
    answer = recommend(plain, visitor(plain, state, "new"), Request())
    assert answer.tier == "popular"
    with pytest.raises(KeyError):
        similar(plain, "new", aggregates=state)
    lonely = told(bundle, "lonely")
    with pytest.raises(KeyError):
        similar(bundle, "lonely", aggregates=lonely)


def test_barred_are_those_that_no_list_holds(bundle: Bundle) -> None:
    """Refused or bought, they are looked for no more than others."""
    events = [
        Event("purchase", "before", "new", user_id="u", timestamp=LATER),
        Event("dislike", "s", "newer", user_id="u", timestamp=LATER + 1),
    ]
    session = Session.from_events(events[1:], events[:1])
    placement = bundle.config.placements["discover"]
    out = rules.excluded(bundle, session, placement, -1, ())
    assert {"new", "newer"} <= rules.barred(bundle, session, placement, out)


def test_without_anything_new_nothing_changes(bundle: Bundle) -> None:
    """Nor for visitors of whom nothing is known, nor where the session ranks without a forest."""
    state = told(bundle, "i5 i6", "i5 i7")
    session = visitor(bundle, state, "i5")
    who = retrieval.profile(bundle, session)
    candidates = retrieval.retrieve(bundle, who, 20)
    table = ranking.feature_table(bundle, who, candidates)
    assert newcomers(bundle, who, candidates, table) is None
    nobody = Session(aggregates=told(bundle, *STEPS))
    assert "new" not in recommend(bundle, nobody, Request(n=100)).item_ids
