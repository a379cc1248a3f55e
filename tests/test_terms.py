"""What a log tells of items' categories and prices."""

from collections import defaultdict
from statistics import median

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.interactions import IdMap
from recsys.terms import fit
from tests.synthetic import log_frame

ITEMS = IdMap.from_ids(["b", "a", "ü", "never"])
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü", "not in the bundle"]),
        st.none() | st.lists(st.sampled_from("pqr"), min_size=1, unique=True),
        st.none() | st.floats(0, 1e6),
    ),
    min_size=1,
)


@given(EVENTS)
def test_the_latest_categories_and_the_median_price(
    events: list[tuple[str, list[str] | None, float | None]],
) -> None:
    """Of an item the categories of its latest event that has some, and the middle of its prices."""
    labels: dict[str, list[str]] = {}
    prices: defaultdict[str, list[float]] = defaultdict(list)
    rows: list[dict[str, object]] = []
    for item, category, price in events:
        labels[item] = category or labels.get(item, [])
        prices[item] += [] if price is None else [price]
        rows.append({"item_id": item, "category": category, "price": price})
    categories, terms = fit(log_frame(rows), ITEMS)
    for row, item in enumerate(ITEMS.ids(range(len(ITEMS)))):
        own = terms.categories[terms.starts[row] : terms.starts[row + 1]]
        assert own.tolist() == sorted(own.tolist())
        assert sorted(categories.ids(own)) == sorted(labels.get(item, []))
        usual = median(prices[item]) if prices[item] else float("nan")
        assert terms.prices[row] == pytest.approx(usual, nan_ok=True)


def test_a_log_without_terms_tells_nothing() -> None:
    """No category and no price, of all items."""
    frame = log_frame([{"item_id": "a"}])
    assert not {"category", "price"} & set(frame.columns)
    categories, terms = fit(frame, ITEMS)
    assert len(categories) == len(terms.categories) == 0
    assert pl.Series(terms.prices).is_nan().all()
    assert terms.starts.tolist() == [0] * 5
