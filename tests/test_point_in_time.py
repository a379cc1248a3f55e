"""Nothing of the future: what training and evaluation know at a moment does not depend on it.

Each request is made twice: in a log as it went on, and in one whose later events are of others.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys import features, training
from recsys.aggregate_log import told_to_ranker
from recsys.bundle import Bundle, sealed
from recsys.config import AGGREGATES, Config
from recsys.evaluation.evaluate import moments
from recsys.evaluation.replay import PROTOCOLS, Sample, openings
from recsys.evaluation.split import split
from recsys.evaluation.systems import ON_REQUEST, Panel, stale_name
from recsys.events import Event
from recsys.interactions import fold
from recsys.logs import Log, log_from_frame
from recsys.retrieval import SOURCES
from recsys.training import train
from tests.synthetic import log_frame, small_config
from tests.test_training import RANKED

ITEMS = 14  # few, so that the item looked for is always among the candidates
LIVE: list[dict[str, object]] = [
    *map(dataclasses.asdict, AGGREGATES),
    {"name": "of_user", "kind": "decayed_count", "key": "user", "half_life": "10m"},
    {"name": "of_session", "kind": "window_count", "key": "session", "window": "5m"},
    {"name": "visitors", "kind": "unique_sessions", "window": "1h"},
    {"name": "bought", "kind": "ratio", "types": ["purchase"], "of": ["view"]},
    {"name": "sort", "kind": "decayed_count", "key": "category", "half_life": "5m"},
    {"name": "sort_visitors", "kind": "unique_sessions", "key": "category", "window": "1h"},
    {"name": "costs", "kind": "last_value", "field": "price"},
]
LIVE = [{**table, "ranking": True} for table in LIVE]
WIDE = {**RANKED, "retrieval": dict.fromkeys(SOURCES, ITEMS), "aggregate": LIVE}
REQUESTS = 15  # of each kind that are looked at

Part = tuple[Bundle, Log, Config]  # sources, a tail they have not seen, a settled configuration


def terms_of(item: int, visit: int) -> dict[str, object]:
    """Categories, of some items two or none, and prices, both of which change."""
    labels = [f"c{item % 4}", f"d{(item + visit // 80) % 3}"][: item % 5]
    return {"category": labels or None, "price": 5.0 + item + visit // 50 if item % 6 else None}


def visits(seed: int = 3) -> pl.DataFrame:
    """Visits that overlap, half of them of ten users who come back, with carts and purchases."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for visit in range(240):
        user = f"u{rng.integers(10)}" if visit % 2 else None
        start = int(rng.integers(ITEMS))
        for step in range(int(rng.integers(2, 7))):
            item = (start + step * int(rng.integers(1, 3))) % ITEMS
            kind = str(rng.choice(["view", "view", "view", "cart", "purchase"]))
            when = 1.7e9 + 40 * visit + 60 * step + float(rng.random())
            rows.append(
                {"session_id": f"s{visit}", "user_id": user, "item_id": f"i{item}", "type": kind}
                | {"timestamp": when, **terms_of(item, visit)}
            )
    return log_frame(rows).sort("timestamp")


def baskets() -> pl.DataFrame:
    """The same as purchases whose lines share the time of their basket."""
    together = pl.col("timestamp").min().over("session_id")
    return visits(4).with_columns(together, type=pl.lit("purchase")).sort("timestamp", "session_id")


@pytest.fixture(scope="module", params=[visits, baskets])
def part(request: pytest.FixtureRequest) -> Part:
    log = log_from_frame(request.param())
    config = small_config(**WIDE).settled(simultaneous=training.simultaneous(log))
    cut = split(log, "0.3")
    return train(cut.train, config), cut.test, config


def with_other_future(tail: Log, row: int, seed: int = 0) -> Log:
    """The log whose events from a row on are of other items, and go on for longer: of every session
    and user more follow, of other types."""
    items = tail.frame["item_id"].to_numpy().copy()
    rng = np.random.default_rng(seed)
    later = np.array([int(item[1:]) for item in items[row:]])
    items[row:] = [f"i{k}" for k in (later + rng.integers(1, ITEMS, len(later))) % ITEMS]
    later_row = pl.int_range(pl.len()) >= row
    labels = pl.Series([[f"c{k % 4}", "d1"] for k in range(len(items))])
    frame = tail.frame.with_columns(
        item_id=pl.Series(items, dtype=pl.String),
        category=pl.when(later_row).then(labels).otherwise("category"),
        price=pl.when(later_row).then(pl.col("price") * 3 + 1).otherwise("price"),
    )
    more = frame[row:].with_columns(
        timestamp=pl.col("timestamp") + 1e6, type=pl.lit("purchase"), event_id=None
    )
    return dataclasses.replace(tail, frame=pl.concat([frame, more.cast(frame.schema)]))


def key(sample: Sample) -> tuple[int, bool]:
    """Which request it is: the row of its moment, and whether it comes before the session."""
    return sample.moment.row, sample.prefix == 0


def future_of(asked: tuple[int, bool]) -> int:
    """The first row that a request must not know."""
    row, opening = asked
    return row if opening else row + 1


def learned(
    part: Part, tail: Log, asked: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> training.Examples:
    """What the ranker is taught by one request of a tail."""
    head, _, config = part
    with monkeypatch.context() as patch:
        every = training._sampled

        def one(frame: pl.DataFrame, *rest: Any) -> Iterator[Sample]:
            return (sample for sample in every(frame, *rest) if key(sample) == asked)

        patch.setattr(training, "_sampled", one)
        return training.replayed(head, tail, config)


def leaks(part: Part, asked: tuple[int, bool], monkeypatch: pytest.MonkeyPatch) -> set[str] | None:
    """Features of a request that depend on what comes after it; None where nothing is learned of
    it."""
    _, tail, _ = part
    other = with_other_future(tail, future_of(asked))
    one, two = (learned(part, log, asked, monkeypatch) for log in (tail, other))
    if not (len(one.groups) and len(two.groups)):
        return None
    if one.table.shape != two.table.shape:
        return {"candidates"}
    differ = (one.table != two.table).any(axis=0)
    return {name for name, differs in zip(one.names, differ, strict=True) if differs}


def requests(part: Part) -> list[tuple[int, bool]]:
    """Some that follow an event, and some before a known user's first."""
    _, tail, config = part
    drawn = list(training._sampled(tail.frame, config, np.random.default_rng(1)))
    after = [key(sample) for sample in drawn if sample.prefix]
    before = [key(sample) for sample in drawn if not sample.prefix]
    assert after
    assert before
    return after[:: max(1, len(after) // REQUESTS)] + before[:REQUESTS]


def test_no_feature_or_source_sees_an_event_after_the_request(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever follows, the ranker learns from the same candidates and features of a request."""
    found = [leaks(part, asked, monkeypatch) for asked in requests(part)]
    compared = [names for names in found if names is not None]
    assert len(compared) > len(found) / 2
    assert not any(compared)


def test_every_feature_is_put_to_that_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes several values in one of the logs, so a leak could be seen in it."""
    live = features.live_features(small_config(**WIDE).aggregate)
    constant = {*features.FEATURES, *live}
    for frame in (visits(), baskets()):
        log = log_from_frame(frame)
        config = small_config(**WIDE).settled(simultaneous=training.simultaneous(log))
        shown = training.examples(log, config)
        assert shown.openings > 0
        spread = np.ptp(shown.table, axis=0)
        constant -= {name for name, s in zip(shown.names, spread, strict=True) if s > 0}
    assert constant == set()


def next_in_session(sample: Sample) -> Sample:
    """A sample whose session holds its next event already."""
    now = sample.moment
    last = now.events[-1].timestamp if now.events else now.event.timestamp
    following = Event(
        "view", now.event.session_id, sample.upcoming[0], now.user_id, timestamp=last + 0.001
    )
    return dataclasses.replace(
        sample, moment=dataclasses.replace(now, events=(*now.events, following))
    )


def next_of_user(sample: Sample) -> Sample:
    """A sample whose user did in an earlier session what is still to come."""
    now = sample.moment
    following = Event("purchase", "earlier", sample.upcoming[0], now.user_id, timestamp=1.0)
    return dataclasses.replace(
        sample, moment=dataclasses.replace(now, user_events=(*now.user_events, following))
    )


@pytest.mark.parametrize("leaking", [next_in_session, next_of_user])
def test_a_planted_leak_is_caught(
    part: Part, leaking: Callable[[Sample], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where training replays a session or a user with their next event, features tell."""
    honest = requests(part)
    every = training._sampled

    def leaky(*arguments: Any) -> Iterator[Sample]:
        return (leaking(sample) for sample in every(*arguments))

    monkeypatch.setattr(training, "_sampled", leaky)
    found = [leaks(part, asked, monkeypatch) for asked in honest]
    compared = [names for names in found if names is not None]
    assert len(compared) > len(found) / 2
    assert sum(map(bool, compared)) > 0.8 * len(compared)


def asked_by(protocol: str, tail: Log, config: Config) -> dict[tuple[int, bool], Sample]:
    """The requests of a protocol, and those that a tuning adds."""
    found = moments(tail, config, protocol, 1, None)
    before = [] if protocol == "user" else openings(tail.frame, config)
    return {key(sample): sample for sample in chain(found, before)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("placement", Config().placements)
def test_no_list_of_an_evaluation_knows_the_future(
    part: Part, placement: str, protocol: str
) -> None:
    """No system's answer depends on what comes after it, whatever is looked for."""
    head, tail, config = part
    panel = Panel(head, placement, 5, ON_REQUEST, [30.0, 600.0])
    samples = asked_by(protocol, tail, config)
    drawn = list(samples)[:: max(1, len(samples) // 8)]
    assert len(drawn) > 5
    for asked in drawn:
        other = asked_by(protocol, with_other_future(tail, future_of(asked)), config)[asked]
        answers = []
        for sample in (samples[asked], other):
            session = sample.moment.session(config)
            answers.append(panel.lists(sample, session, panel.barred(session))[0])
        assert samples[asked].upcoming != other.upcoming
        assert answers[0] == answers[1]


def ends(log: Log, config: Config) -> list[str]:
    """What the sources of every tail were fitted to, as hashes."""
    with ThreadPoolExecutor(1) as pool:
        fitted = training._fitting(log, config, training.Stages(), pool)
    return [sealed(tail.sources.result()).version for tail in fitted]


@pytest.fixture(scope="module")
def told_other_ends() -> tuple[Log, list[Log], Config]:
    """A log, and for each of its tails one in which all of that and what follows is of others."""
    log = log_from_frame(visits())
    config = small_config(**WIDE).settled(simultaneous=False)
    others = []
    for part in training.tails(log, config):
        row = len(part.train.frame)
        numbers = [
            (int(item[1:]) + 1 + k % 3) % ITEMS for k, item in enumerate(log.frame["item_id"])
        ]
        changed = pl.Series([f"i{k}" for k in numbers])
        late = pl.int_range(pl.len()) >= row
        frame = log.frame.with_columns(
            pl.when(late).then(changed).otherwise("item_id").alias("item_id")
        )
        others.append(dataclasses.replace(log, frame=frame))
    return log, others, config


def test_the_sources_of_a_tail_have_not_seen_it(
    told_other_ends: tuple[Log, list[Log], Config],
) -> None:
    """Whatever a tail holds, what its requests are put to was fitted to the same."""
    log, others, config = told_other_ends
    assert len(others) == 2
    for k, other in enumerate(others):
        assert ends(other, config)[k:] == ends(log, config)[k:]


@pytest.mark.parametrize("source", ["transitions", "session_knn"])
def test_a_source_that_has_seen_the_tail_is_caught(
    source: str, told_other_ends: tuple[Log, list[Log], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fitted to the whole log differs with the tail."""
    log, others, config = told_other_ends
    honest = training.fit_sources

    def ends_with(whole: Log) -> list[str]:
        def leaky(head: Log, *rest: Any) -> Bundle:
            seen = fold(whole.frame, config.events)
            module = getattr(training, source)
            table = module.fit(seen.sequences, len(seen.items), getattr(config, source))
            return dataclasses.replace(honest(head, *rest), **{source: table})

        with monkeypatch.context() as patch:
            patch.setattr(training, "fit_sources", leaky)
            return ends(whole, config)

    assert all(a != b for a, b in zip(ends_with(log), ends_with(others[0]), strict=True))


def late_lists(part: Part, tail: Log, row: int, seconds: float) -> tuple[Any, float]:
    """What full answers at a row without the events of so many seconds, and the time of the row."""
    head, _, config = part
    told = told_to_ranker(config, tail.frame, None)
    panel = Panel(head, "default", 5, [], [seconds], told)
    sample = next(
        s for s in moments(tail, config, "next-item", 1, None, told) if s.moment.row == row
    )
    lists, _ = panel.lists(sample, sample.moment.session(config), ())
    return lists[panel.names.index(stale_name(seconds))], sample.moment.event.timestamp


def test_a_delayed_list_knows_nothing_younger(part: Part) -> None:
    """Neither the session nor an aggregate tells of what was done within the delay."""
    _, tail, _ = part
    delay = 600.0
    rows = [row for row, opening in requests(part) if not opening and row > len(tail.frame) // 3]
    assert len(rows) > 5
    younger = 0
    for row in rows[:8]:
        first, now = late_lists(part, tail, row, delay)
        hidden = int((tail.frame["timestamp"] <= now - delay).sum())
        younger += hidden < row
        second, _ = late_lists(part, with_other_future(tail, hidden), row, delay)
        assert first == second
    assert younger > 5
