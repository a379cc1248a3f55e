"""What candidates are and cost beside the session's items, by hand and by a naive count."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import assortment, features, ranking, retrieval
from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates, ranking_by
from recsys.assortment import NO_LEVEL
from recsys.bundle import Bundle
from recsys.events import Event
from recsys.features import NO_VALUE
from recsys.recommend import Request, recommend
from recsys.refit import refit
from recsys.session import Session
from recsys.training import train
from tests.synthetic import START, log_frame, small_config
from tests.test_training import RANKED

LIVE: list[dict[str, object]] = [
    {"name": "sort", "kind": "decayed_count", "key": "category", "half_life": "1d"},
    {"name": "sort_price", "kind": "last_value", "key": "category", "field": "price"},
    {"name": "costs", "kind": "last_value", "field": "price"},
]
WORTH = {0: ("even", 4.0), 1: ("odd", 9.0)}


def circle(sessions: int = 300, items: int = 20) -> list[dict[str, object]]:
    """Sessions that go from each item to the next but one; the even ones cost 4, the odd ones 9.
    i0 is in a second category, of i19 nothing is known."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for session in range(sessions):
        at = int(rng.integers(items))
        for _ in range(5):
            label, price = WORTH[at % 2]
            terms = {"category": [label, *["first"] * (at == 0)], "price": price}
            told = terms if at != 19 else {}
            rows.append({"session_id": f"s{session}", "item_id": f"i{at}", **told})
            at = (at + 2) % items
    return rows


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(log_frame(circle()), small_config(**RANKED, aggregate=LIVE))


def state(bundle: Bundle, *events: dict[str, object]) -> Aggregates:
    """What the stream says after some events."""
    rows = [
        {"session_id": "other", "timestamp": START + 1e4 + k, **event}
        for k, event in enumerate(events)
    ]
    return LogFold(log_frame(rows), ranking_by(bundle.config), bundle.config.events).advance()


def told(
    bundle: Bundle, session: Session, anchor: str | None = None
) -> dict[str, dict[str, float]]:
    """By feature of terms and by candidate, what the ranker is told."""
    who = retrieval.profile(bundle, session, anchor)
    candidates = retrieval.retrieve(bundle, who, len(bundle.items))
    table = ranking.feature_table(bundle, who, candidates)
    names = bundle.items.ids(candidates.rows)
    return {
        name: dict(zip(names, row.tolist(), strict=True))
        for name, row in zip(bundle.facts.features, table, strict=True)
        if name in features.GROUPS["terms"] or name.startswith("live_")
    }


def visit(*events: tuple[str, float | None], aggregates: Aggregates | None = None) -> Session:
    """A session of items and what they cost then."""
    return Session.from_events(
        (
            Event("view", "s", item, timestamp=k + 1.0, terms={"price": price} if price else {})
            for k, (item, price) in enumerate(events)
        ),
        aggregates=aggregates,
    )


def test_the_share_of_events_in_a_category(bundle: Bundle) -> None:
    """Repeats count, an item in two categories once, and one that is in none shares none."""
    share = told(bundle, visit(("i0", 4.0), ("i1", 9.0), ("i0", 4.0), ("i19", None)))
    assert share["category_share"]["i2"] == pytest.approx(0.5)
    assert share["category_share"]["i0"] == pytest.approx(0.5)
    assert share["category_share"]["i3"] == pytest.approx(0.25)
    assert share["category_share"]["i19"] == 0


def test_prices_are_those_of_the_events(bundle: Bundle) -> None:
    """Against the geometric mean of what things cost as they were touched; where that was not told,
    usually; of an item on a page too."""
    level = told(bundle, visit(("i0", 2.0), ("i2", 32.0), ("i19", None)))["price_level"]
    assert level["i4"] == pytest.approx(math.log(4 / 8))
    assert level["i5"] == pytest.approx(math.log(9 / 8))
    assert level["i19"] == NO_LEVEL
    assert told(bundle, visit(("i0", None)))["price_level"]["i5"] == pytest.approx(math.log(9 / 4))
    page = told(bundle, visit(("i0", 16.0)), anchor="i2")["price_level"]
    assert page["i4"] == pytest.approx(math.log(4 / 8))
    assert set(told(bundle, visit(("i19", None)))["price_level"].values()) == {NO_LEVEL}


def test_a_change_of_price_is_told_at_the_next_event(bundle: Bundle) -> None:
    """The last value of a price is what an item costs now; of the others that is the usual one."""
    now = state(bundle, {"item_id": "i4", "price": 2.0}, {"item_id": "i6", "price": 8.0})
    found = told(bundle, visit(("i0", 4.0), aggregates=now))
    assert found["price_change"]["i4"] == pytest.approx(math.log(0.5))
    assert found["price_change"]["i6"] == pytest.approx(math.log(2))
    assert found["price_change"]["i8"] == 0
    assert found["price_level"]["i4"] == pytest.approx(math.log(0.5))
    assert found["price_level"]["i8"] == pytest.approx(0)
    assert found["price_change"]["i19"] == 0


def test_the_highest_of_the_categories_counts(bundle: Bundle) -> None:
    """Of an item that is in two the better one; nothing where it is in none or nobody came."""
    event = {"item_id": "any", "price": 5.0}
    now = state(bundle, *[{**event, "category": [label]} for label in ("even", "first", "first")])
    found = told(bundle, visit(("i0", 4.0), aggregates=now))
    assert found["live_sort"]["i2"] == pytest.approx(1, rel=0.01)
    assert found["live_sort"]["i0"] == pytest.approx(2, rel=0.01)
    assert found["live_sort"]["i1"] == found["live_sort"]["i19"] == 0
    assert (found["live_sort_price"]["i2"], found["live_sort_price"]["i1"]) == (5.0, NO_VALUE)
    assert found["live_sort_price"]["i19"] == NO_VALUE
    for label in ("even", "first"):  # the other one has no value
        now = state(bundle, {**event, "category": [label]})
        assert told(bundle, visit(("i0", 4.0), aggregates=now))["live_sort_price"]["i0"] == 5.0


def test_a_newcomer_has_its_price(bundle: Bundle) -> None:
    """As the stream tells it; its categories no bundle knows."""
    events = [{"item_id": item, "price": 8.0} for item in ("i4", "new", "i6")]
    answer = recommend(
        bundle,
        visit(("i4", 4.0), aggregates=state(bundle, *events)),
        Request(n=30, explain=True),
    )
    own = answer.features[answer.item_ids.index("new")]
    assert own["price_level"] == pytest.approx(math.log(2))
    assert (own["category_share"], own["price_change"], own["live_sort"]) == (0, 0, 0)
    assert own["live_sort_price"] == NO_VALUE


def test_without_columns_there_are_no_such_features() -> None:
    """A log without categories and prices, or with one of them, and one that declares no price."""
    plain = small_config(**RANKED)
    names = {"category": {"category_share"}, "price": {"price_level"}}
    for kept in ((), ("category",), ("price",)):
        rows = [
            {k: v for k, v in row.items() if k in ("session_id", "item_id", *kept)}
            for row in circle(200)
        ]
        found = train(log_frame(rows), plain).facts.features.keys()
        own = found & features.GROUPS["terms"].keys()
        assert own == set().union(*(names[column] for column in kept))
        settled = plain.settled(simultaneous=False)
        assert list(found) == list(features.features_of(settled, kept))


ITEMS = 6
OWN = st.lists(st.integers(0, 4), unique=True, max_size=3)
LABELS = st.lists(OWN, min_size=ITEMS, max_size=ITEMS)


@given(LABELS, st.lists(st.integers(0, ITEMS - 1), max_size=12))
def test_shares_are_those_of_a_naive_count(labels: list[list[int]], sequence: list[int]) -> None:
    """Whatever is in however many categories."""
    starts = np.concatenate([[0], np.cumsum([len(own) for own in labels])]).astype(np.int64)
    categories = np.array([label for own in labels for label in sorted(own)], np.int32)
    rows = np.arange(ITEMS, dtype=np.int32)
    found = np.zeros(ITEMS, np.float32)
    assortment._shared(found, rows, np.array(sequence, np.int32), starts, categories)
    wanted = [
        sum(bool({*labels[row]} & {*labels[event]}) for event in sequence) / max(1, len(sequence))
        for row in range(ITEMS)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_refit_keeps_what_its_ranker_was_told(bundle: Bundle) -> None:
    """Where the log has lost its columns, features are those of items nothing is known of."""
    rows = [{k: row[k] for k in ("session_id", "item_id")} for row in circle(320)]
    again = refit(bundle, log_frame(rows))
    assert again.facts.features == bundle.facts.features
    found = told(again, visit(("i0", 4.0)))
    assert set(found["category_share"].values()) == {0}
    assert set(found["price_level"].values()) == {NO_LEVEL}
