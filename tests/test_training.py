"""From a log to a bundle, and what the ranker may know."""

import dataclasses
import threading
from typing import Any

import numpy as np
import polars as pl
import pytest
from threadpoolctl import threadpool_limits

from recsys import features, ranking, retrieval, training
from recsys.bundle import Bundle
from recsys.config import Config, Placement, config_from_dict
from recsys.events import Event
from recsys.logs import Log, log_from_frame
from recsys.models import forest, net
from recsys.recommend import Request, recommend
from recsys.session import Session
from recsys.training import train
from tests.synthetic import log_frame, small_config

RANKED = {
    "ranker": {"min_requests": 50, "tail": 0.3, "trees": 20, "leaves": 7, "min_leaf": 5},
    "session_embedding": {"embedding_size": 8, "negatives": 32, "batch": 64, "epochs": 4},
}


def circle(sessions: int = 300, items: int = 12) -> pl.DataFrame:
    """Every session walks a few steps round a circle of items."""
    rng = np.random.default_rng(0)
    rows = []
    for session in range(sessions):
        start, steps = int(rng.integers(items)), int(rng.integers(2, 6))
        walk = [f"i{(start + step) % items}" for step in range(steps)]
        rows += [{"session_id": f"s{session}", "item_id": item} for item in walk]
    return log_frame(rows)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(circle(), small_config(**RANKED))


def session_of(*items: str) -> Session:
    return Session.from_events(
        Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)
    )


def with_times(*, within: float, visits: float = 100.0) -> Log:
    """Sessions of four events, all within so many seconds, told in whole ones."""
    places = [(visit, step) for visit in range(30) for step in range(4)]
    return log_from_frame(
        log_frame(
            [
                {"session_id": f"s{visit}", "item_id": f"i{(visit + step) % 9}"}
                | {"timestamp": 1.7e9 + int(visits * visit + within * step / 3)}
                for visit, step in places
            ]
        )
    )


def test_lines_of_one_time_are_a_basket() -> None:
    """Sessions each of whose events share one time are read as baskets."""
    assert training.simultaneous(with_times(within=0))
    assert not training.simultaneous(with_times(within=30))


def test_an_odd_event_makes_no_clicks_of_a_basket() -> None:
    """A line taken back later, or a search without an item, leaves it one."""
    lines = [
        {"session_id": f"s{v}", "item_id": f"i{k}", "timestamp": 1e9 + v}
        for v in range(9)
        for k in range(20)
    ]
    later = [{"session_id": f"s{v}", "item_id": "i3", "timestamp": 1e9 + v + 50} for v in range(9)]
    search = [
        {"session_id": f"s{v}", "type": "search", "timestamp": 1e9 + v - k}
        for v in range(9)
        for k in range(20)
    ]
    assert training.simultaneous(
        log_from_frame(log_frame(lines + later + search).sort("timestamp"))
    )


def test_examples_are_of_a_settled_configuration() -> None:
    """How many requests are enough follows from the log."""
    with pytest.raises(ValueError, match=r"ranker\.min_requests: not settled"):
        training.examples(log_from_frame(circle()), Config())


def test_clicks_within_a_second_are_no_basket() -> None:
    """Most steps of quick clicks take no time in whole seconds, but the session does."""
    quick = with_times(within=1.0)
    steps = quick.frame.select(pl.col("timestamp").diff().over("session_id")).to_series()
    assert (steps.drop_nulls() == 0).mean() > 0.5
    assert not training.simultaneous(quick)


def test_sessions_of_one_event_tell_nothing_of_order() -> None:
    """They share one time with nobody."""
    alone = circle(20).unique("session_id", keep="first", maintain_order=True)
    assert not training.simultaneous(log_from_frame(alone))


def test_the_ranker_is_trained_where_there_is_data(bundle: Bundle) -> None:
    """The facts say so, name every feature, and lists are of the ranker's tier."""
    assert bundle.facts.ranker.startswith("forest of 20 trees and a net from")
    assert list(bundle.facts.features) == list(features.features_of(bundle.config))
    assert sum(bundle.facts.features.values()) == pytest.approx(1, abs=1e-3)
    answer = recommend(bundle, session_of("i3", "i4"), Request(n=3, placement="discover"))
    assert answer.tier == "ranker"
    assert answer.item_ids[0] == "i5"


@pytest.fixture(scope="module")
def shown() -> training.Examples:
    config = small_config(**RANKED).settled(simultaneous=False)
    return training.examples(log_from_frame(circle()), config)


def test_the_number_of_threads_gives_no_other_ranker(shown: training.Examples) -> None:
    """Neither that of the setting nor that of BLAS."""
    rankers = []
    for threads, of_blas in ((1, 1), (2, 2), (0, 4)):
        config = small_config(**{**RANKED, "training": {"threads": threads}}).settled(
            simultaneous=False
        )
        with threadpool_limits(of_blas, "blas"):
            rankers.append(training.learn(shown, config))
    for part in ("forest", "net"):
        for field in dataclasses.fields(getattr(rankers[0], part)):
            found = {getattr(getattr(r, part), field.name).tobytes() for r in rankers}
            assert len(found) == 1


@pytest.mark.parametrize(
    ("threads", "net_weight", "told", "wanted"),
    [(2, 0.8, "", 2), (0, 0.0, "", 0), (0, 0.8, "1", 0), (0, 0.8, "", 3)],
)
def test_the_trees_leave_a_core_to_the_net(
    threads: int,
    net_weight: float,
    told: str,
    wanted: int,
    shown: training.Examples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless the configuration or the environment says how many they get, or there is no net."""
    asked = []

    def fit(*told: object) -> tuple[forest.Forest, dict[str, float]]:
        asked.append(told[-2])
        return forest.EMPTY, {}

    monkeypatch.setattr(forest, "fit", fit)
    monkeypatch.setattr(training, "cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    ranker = {**RANKED["ranker"], "net_weight": net_weight}
    tables = {**RANKED, "ranker": ranker, "training": {"threads": threads}}
    training.learn(shown, small_config(**tables).settled(simultaneous=False))
    assert asked == [wanted]


@pytest.mark.parametrize("failing", ["forest", "net"])
def test_what_fails_or_is_interrupted_ends_the_other(
    failing: str, shown: training.Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes out, and nothing goes on: neither the trees for a net that failed at once nor
    the net for trees that were interrupted, however long it would take."""
    config = small_config(**RANKED).settled(simultaneous=False)
    before = threading.active_count()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def endless(*told: object) -> None:
        *_, tick = told
        assert callable(tick)
        while True:
            tick()

    def broken(*_: object) -> None:
        raise FloatingPointError("no number")

    if failing == "forest":
        monkeypatch.setattr(forest, "fit", interrupted)
        monkeypatch.setattr(net, "fit", endless)
        with pytest.raises(KeyboardInterrupt):
            training.learn(shown, config)
    else:
        monkeypatch.setattr(net, "fit", broken)
        with pytest.raises(FloatingPointError, match="no number"):
            training.learn(shown, config)
    assert threading.active_count() == before


def test_where_nothing_tells_candidates_apart_there_is_no_net(shown: training.Examples) -> None:
    """And the summary names none."""
    table = np.zeros_like(shown.table)
    ranker = training.learn(
        dataclasses.replace(shown, table=table), small_config(**RANKED).settled(simultaneous=False)
    )
    assert ranker.net is net.EMPTY
    assert "net" not in ranker.summary


def test_an_explained_list_shows_the_rankers_features(bundle: Bundle) -> None:
    """With a ranker, explain gives the row of the feature table that made each score."""
    answer = recommend(bundle, session_of("i3"), Request(n=3, explain=True))
    assert all(list(row) == list(bundle.facts.features) for row in answer.features)
    assert all(row["events"] == 1 for row in answer.features)


def test_a_placement_chooses_its_sources(bundle: Bundle) -> None:
    """Only the named sources propose; with ranking = "blend" the forest is left aside."""
    who = retrieval.profile(bundle, session_of("i3", "i4"))
    few = retrieval.retrieve(bundle, who, 0, sources=("session_knn",))
    assert few.sources == ("session_knn",)
    asked = Placement(exclude=("any",), sources=("popular",))
    blended = dataclasses.replace(asked, ranking="blend", sources=())
    config = dataclasses.replace(bundle.config, placements={"p": asked, "b": blended})
    chosen = dataclasses.replace(bundle, config=config)
    answer = recommend(chosen, session_of("i3", "i4"), Request(n=3, placement="p", explain=True))
    assert answer.tier == "ranker"
    assert all(row["session_knn_score"] == 0 for row in answer.features)
    assert recommend(chosen, session_of("i3"), Request(n=3, placement="b")).tier == "session"


def test_without_data_the_blend_ranks_and_says_why() -> None:
    """A short log has no ranker; the facts give the reason."""
    small = train(circle(20), small_config(session_embedding=RANKED["session_embedding"]))
    assert small.facts.ranker.startswith("blend: ")
    assert recommend(small, session_of("i3"), Request(n=3)).tier == "session"
    off = train(circle(20), small_config(ranker={"enabled": False}))
    assert off.facts.ranker == "blend: the ranker is off in the configuration"


def test_baskets_are_ranked_by_what_is_still_to_come() -> None:
    """Where the lines of a basket share one time the target is its rest, else the next item."""
    times = pl.col("timestamp").min().over("session_id")
    baskets = train(circle().with_columns(times).sort("timestamp"), small_config(**RANKED))
    assert baskets.facts.ranker.endswith("(rest-of-session)")
    answer = recommend(baskets, session_of("i3"), Request(n=3, placement="discover"))
    assert answer.tier == "ranker"
    assert set(answer.item_ids) & {"i2", "i4"}
    assert train(circle(), small_config(**RANKED)).facts.ranker.endswith("(next-item)")


def test_users_and_items_alone_have_no_order_to_learn_from() -> None:
    """Without times and with one session a user the blend ranks, and the facts say why."""
    frame = circle().with_columns(user_id="session_id").drop("timestamp")
    bundle = train(frame, small_config(**RANKED))
    assert bundle.facts.ranker.startswith("blend: no times, and a session is a user")


def test_known_users_without_a_session_are_ranked_too() -> None:
    """Where users came back in the tail, the forest learned to open their sessions."""
    rows = [
        {"user_id": f"u{user}", "session_id": f"u{user}-{visit}", "item_id": f"i{user % 12}"}
        for visit in range(6)
        for user in range(60)
        for _ in range(2)
    ]
    bundle = train(log_frame(rows), small_config(**RANKED))
    assert bundle.facts.openings > 0
    answer = recommend(bundle, Session(user_id="u5"), Request(n=3, placement="continue"))
    assert answer.tier == "batch"
    assert answer.item_ids[0] == "i5"
    forestless = dataclasses.replace(bundle, facts=dataclasses.replace(bundle.facts, openings=0))
    blended = recommend(forestless, Session(user_id="u5"), Request(n=3, placement="continue"))
    assert blended.scores != answer.scores


def test_every_feature_says_what_it_is(bundle: Bundle) -> None:
    """Each feature has a docstring, and is finite for every candidate."""
    assert all(feature.__doc__ for feature in features.FEATURES.values())
    who = retrieval.profile(bundle, session_of("i1", "i2", "i1"))
    table = ranking.feature_table(bundle, who, retrieval.retrieve(bundle, who, 5))
    assert np.isfinite(table).all()


def test_the_ranker_learns_only_from_what_follows_its_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle that training replays against ends before the first event of its tail; the tails
    follow each other."""
    seen: list[tuple[float, float, float]] = []
    original = training.replayed

    def watched(head: Bundle, tail: Log, *rest: Any, **named: Any) -> training.Examples:
        first, last = tail.frame["timestamp"].to_list()[:: len(tail.frame) - 1]
        seen.append((head.cutoff, first, last))
        return original(head, tail, *rest, **named)

    monkeypatch.setattr(training, "replayed", watched)
    bundle = train(circle(), small_config(**RANKED))
    (old_cutoff, old_first, old_last), (cutoff, first, last) = sorted(seen)
    assert old_cutoff < old_first < old_last <= cutoff < first < last <= bundle.cutoff


def test_a_log_too_short_for_two_tails_has_one() -> None:
    """Where nothing precedes the latest tail but what one session did, it is replayed alone."""
    log = log_from_frame(circle(2), config=Config().events)
    config = config_from_dict({"ranker": {"tail": 0.8}})
    assert [len(part.train.frame) > 0 for part in training.tails(log, config)] == [True]
