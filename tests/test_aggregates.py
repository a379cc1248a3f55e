"""Aggregates: what each kind is, by a naive count over the events themselves."""

import math
from collections import defaultdict
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.aggregate_log import LogFold
from recsys.aggregates import STEPS, Aggregates, defined, definition, oldest
from recsys.config import Aggregate, Config, ConfigError
from recsys.durations import seconds_of

DECLARED = (
    Aggregate("count", "decayed_count", half_life="1h"),
    Aggregate("of_user", "decayed_count", "user", half_life="1h"),
    Aggregate("rate", "ratio", types=("click",), of=("impression",), half_life="2h", prior=0.1),
    Aggregate("window", "window_count", window="2h"),
    Aggregate("of_session", "window_count", "session", window="1h"),
    Aggregate("sessions", "unique_sessions", window="2h"),
    Aggregate("last", "last_value"),
    Aggregate("steps", "co_count", half_life="1h", gap="20m"),
    Aggregate("price", "last_value", field="price"),
    Aggregate("of_category", "decayed_count", "category", half_life="1h"),
    Aggregate("its_window", "window_count", "category", window="2h"),
    Aggregate(
        "its_rate", "ratio", "category", types=("click",), of=("impression",), half_life="2h"
    ),
    Aggregate("its_sessions", "unique_sessions", "category", window="2h"),
    Aggregate("visitors", "decayed_count", half_life="1h", once="100m"),
    Aggregate("its_visitors", "decayed_count", "category", half_life="2h", once="2h"),
    Aggregate("its_last", "last_value", "category"),
    Aggregate("its_price", "last_value", "category", types=("click",), field="price"),
)
COLUMNS = {
    "session_id": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "type": pl.String,
    "timestamp": pl.Float64,
    "value": pl.Float64,
    "category": pl.List(pl.String),
    "price": pl.Float64,
}
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("stu"),
        st.sampled_from(["x", "y", None]),
        st.sampled_from(["a", "b", "c", None]),
        st.sampled_from(["view", "click", "impression"]),
        st.integers(0, 60).map(lambda k: 1e9 + 300.0 * k),
        st.sampled_from([None, 1.0, 2.5]),
        st.sampled_from([None, ["p"], ["q", "p"], ["ü"]]),
        st.sampled_from([None, 0.0, 3.5, 9.0]),
    ),
    max_size=40,
)
FIELDS: tuple[Literal["value", "price"], ...] = ("value", "price")
Row = tuple[Any, ...]


def frame_of(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def expected(aggregate: Aggregate, rows: list[Row]) -> dict[Any, float]:
    """The definition, word for word, at the moment of the latest event."""
    moment = max((row[4] for row in rows), default=-math.inf)
    types = aggregate.types or ("view", "click")
    keys = {"session": 0, "user": 1, "item": 2, "pair": 2, "category": 6}
    key = keys[aggregate.key]
    if aggregate.key == "category":  # as if for each an event of its own
        rows = [(*row[:6], label, row[7]) for row in rows for label in row[6] or ()]
    counted = [row for row in rows if row[3] in types and row[key] is not None]
    told = 7 if aggregate.field == "price" else 5
    found: defaultdict[Any, float] = defaultdict(float)

    def worth(time: float) -> float:
        return float(2.0 ** -((moment - time) / aggregate.span))

    def recent(time: float) -> bool:
        step = aggregate.span / STEPS
        return math.floor(time / step) > math.floor(moment / step) - STEPS

    if aggregate.once:
        part = {"100m": 6000, "2h": 7200}[aggregate.once]
        firsts: dict[Any, float] = {}
        for row in counted:
            mark = row[key], row[0], row[4] // part
            firsts[mark] = min(row[4], firsts.get(mark, math.inf))
        for (name, _, _), time in firsts.items():
            found[name] += worth(time)
    elif aggregate.kind == "decayed_count":
        for row in counted:
            found[row[key]] += worth(row[4])
    elif aggregate.kind == "ratio":
        shown = [row for row in rows if row[3] in aggregate.of and row[key] is not None]
        for name in {row[key] for row in [*counted, *shown]}:
            above, below = (
                sum(worth(row[4]) for row in part if row[key] == name) for part in (counted, shown)
            )
            weight = aggregate.smoothing
            found[name] = (above + weight * aggregate.prior) / (below + weight)
    elif aggregate.kind == "window_count":
        for row in counted:
            found[row[key]] += recent(row[4])
    elif aggregate.kind == "unique_sessions":
        pairs = {(row[key], row[0]) for row in counted if recent(row[4])}
        for row in counted:
            found[row[key]] += 0
        for name, _ in pairs:
            found[name] += 1
    elif aggregate.kind == "last_value":
        valued = (row for row in counted if row[told] is not None)
        for row in sorted(valued, key=lambda row: (row[4], row[told])):
            found[row[key]] = row[told]
    else:
        for a in counted:
            later = [row[4] for row in counted if row[0] == a[0] and row[4] > a[4]]
            for b in counted:
                follows = b[0] == a[0] and later and b[4] == min(later)
                if follows and b[4] - a[4] <= 1200 and a[2] != b[2]:
                    found[a[2], b[2]] += worth(b[4])
    return dict(found)


@pytest.mark.parametrize("aggregate", DECLARED, ids=lambda a: a.name)
@given(rows=EVENTS, cut=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_log_gives_the_values_of_the_definition(
    aggregate: Aggregate, rows: list[Row], cut: float
) -> None:
    """At any row of a log, from the rows up to it and from no later one."""
    rows = sorted(rows, key=lambda row: row[4])
    fold = LogFold(frame_of(rows), (aggregate,), Config().events)
    for end in (round(cut * len(rows)), len(rows)):
        found = dict(fold.advance(end).named(aggregate))
        wanted = expected(aggregate, rows[:end])
        assert {k: v for k, v in found.items() if v} == pytest.approx(
            {k: v for k, v in wanted.items() if v}, abs=1e-12
        )


@given(rows=EVENTS)
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(rows: list[Row]) -> None:
    """A log whose hours were written as they came gives the same as one in order of time."""
    one, other = (
        LogFold(frame_of(some), DECLARED, Config().events).advance() for some in (rows, rows[::-1])
    )
    for aggregate in DECLARED:
        assert dict(one.named(aggregate)) == pytest.approx(dict(other.named(aggregate)), abs=1e-12)


def test_a_log_without_terms_has_nothing_of_categories() -> None:
    """Neither a count nor a price, and all else is as with them."""
    rows = [("s", "x", "a", "view", 1e9, 2.0, ["p"], 3.0)]
    bare = frame_of(rows).drop("category", "price")
    told, untold = (
        LogFold(frame, DECLARED, Config().events).advance() for frame in (frame_of(rows), bare)
    )
    for aggregate in DECLARED:
        if aggregate.key == "category" or aggregate.field == "price":
            assert not dict(untold.named(aggregate))
        else:
            assert dict(untold.named(aggregate)) == dict(told.named(aggregate))


def test_unknown_keys_have_the_value_of_nothing() -> None:
    """-1 and keys without events: no count, the prior of a ratio, no last value."""
    row = ("s", None, "a", "view", 1e9, 2.0, ["p"], 3.0)
    fold = LogFold(frame_of([row]), DECLARED, Config().events)
    state, numbers = fold.advance(), np.array([-1, 0, 7], dtype=np.int32)
    values = {a.name: state.values(a, numbers).tolist() for a in DECLARED if a.key == "item"}
    assert values["count"] == [0, 1, 0]
    assert values["rate"] == [0.1, 0.1, 0.1]
    assert values["last"][1] == 2.0
    assert np.isnan(values["last"][0])
    assert values["price"][1] == 3.0
    assert not len(state.steps_from(DECLARED[7], 0)[0])


def test_a_ratio_without_smoothing_and_without_events_is_its_prior() -> None:
    """Nothing over nothing is no number."""
    bare = Aggregate("rate", "ratio", types=("click",), of=("impression",), smoothing=0.0)
    assert Aggregates((bare,)).values(bare, np.array([0], np.int32)).tolist() == [0.0]


def test_an_event_ahead_of_the_moment_counts_as_one_of_now() -> None:
    """A clock that runs fast does not make an event worth more than one."""
    count = DECLARED[0]
    state = LogFold(
        frame_of([("s", None, "a", "view", 1e9 + 60, None, None, None)]), (count,), Config().events
    ).advance()
    state.moment = 1e9
    assert state.values(count, np.array([0], np.int32)).tolist() == [1.0]


def test_the_same_statistic_has_the_same_id() -> None:
    """A name, or how a ratio is smoothed, changes nothing of what is kept; a half-life does."""
    config = Config()
    one, other, longer = (
        definition(Aggregate(name, "decayed_count", half_life=half_life), config)["id"]
        for name, half_life in (("a", "1h"), ("b", "60m"), ("a", "2h"))
    )
    assert one == other != longer


def test_counting_once_is_another_statistic() -> None:
    """Which the stream is told, and which a definition is read back to."""
    bare, once = (
        definition(Aggregate("a", "decayed_count", once=once), Config()) for once in ("", "12h")
    )
    assert "once" not in bare
    assert bare["id"] != once["id"]
    assert once["once"] == 12 * 3600
    assert seconds_of(defined(once).once) == 12 * 3600


def test_what_counts_no_longer_may_be_forgotten() -> None:
    """After 34 half-lives, or in a step before the window; a last value is never too old."""
    count, window, last = DECLARED[0], DECLARED[3], DECLARED[6]
    assert oldest(count, 1e9) == 1e9 - 34 * 3600
    step = math.floor(1e9 / 300)
    assert oldest(window, 1e9) == step - 23
    assert oldest(last, 1e9) == -math.inf


def test_a_price_is_of_last_values_alone() -> None:
    """Another kind counts, whatever things cost; what was declared before goes on as it was."""
    with pytest.raises(ConfigError, match=r"aggregate.a.field: window_count has none"):
        Aggregate("a", "window_count", field="price")
    value, price = (definition(Aggregate("a", "last_value", field=f), Config()) for f in FIELDS)
    assert "field" not in value
    assert value["id"] != price["id"]
    assert defined(price).field == "price"
