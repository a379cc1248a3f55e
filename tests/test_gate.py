"""The gate lets through what is good, keeps aside what is not, and says which and why."""

import dataclasses
import json

import polars as pl
import pytest

from recsys import gate
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.split import EvaluationError, Split, split
from recsys.gate import TOLERANCE, Comparison, Verdict, fit_yardsticks, held_out, judge, not_worse
from recsys.logs import Log, log_from_frame
from recsys.metrics import Estimate
from recsys.training import train
from tests.synthetic import small_config, two_worlds, walks

SESSIONS = 600


def config() -> Config:
    """Quick, without a ranker, which a few hundred sessions cannot train."""
    tables = {"ranker": {"enabled": False}, "session_embedding": {"embedding_size": 8, "epochs": 1}}
    return small_config(**tables)


def of_frame(log: Log, frame: pl.DataFrame) -> Log:
    return dataclasses.replace(log, frame=frame)


@pytest.fixture(scope="module")
def log() -> Log:
    return log_from_frame(walks(SESSIONS))


@pytest.fixture(scope="module")
def cut(log: Log) -> Split:
    return held_out(log)


@pytest.fixture(scope="module")
def active(cut: Split) -> Bundle:
    """Trained on the older half of what precedes the window."""
    return train(of_frame(cut.train, cut.train.frame.head(len(cut.train.frame) // 2)), config())


@pytest.fixture(scope="module")
def newer(cut: Split) -> Bundle:
    """Trained on all that precedes the window."""
    return train(cut.train, config())


@pytest.fixture(scope="module")
def passed(newer: Bundle, active: Bundle, cut: Split) -> Verdict:
    return judge(newer, active, cut.train, cut.test)


@pytest.fixture(scope="module")
def spoiled(log: Log, cut: Split) -> dict[str, Bundle]:
    """Candidates of a pipeline with a fault, by what it is."""
    past = cut.train.frame
    anywhere = past.with_columns(pl.col("item_id").shuffle(seed=1))
    future = train(log, config())
    facts = dataclasses.replace(future.facts, cutoff=float(past["timestamp"][-1]))
    return {
        "shuffled": train(of_frame(cut.train, anywhere), config()),
        "a tenth": train(of_frame(cut.train, past.tail(len(past) // 10)), config()),
        "the future": future,
        "the future, denied": dataclasses.replace(future, facts=facts),
    }


def test_what_is_good_passes(passed: Verdict, newer: Bundle, active: Bundle, cut: Split) -> None:
    """Trained on newer data it is no worse than the active one and beats both yardsticks."""
    assert (passed.passed, passed.judged) == (True, True)
    assert (passed.candidate, passed.active) == (newer.version, active.version)
    assert (passed.metric, passed.protocol) == ("ndcg@20", "next-item")
    assert passed.window["events"] == len(cut.test.frame)
    assert [text.split(":")[0] for text in passed.reasons] == [
        f"not worse than the active bundle {active.version}",
        "better than popularity",
        "better than session-kNN",
    ]
    for found in passed.compared.values():
        # Of six events of a session, each but the last asks for the next.
        assert found.requests == 5 * found.visitors == 5 * passed.window["sessions"]
        assert found.difference.low is not None
        assert found.difference.low < found.difference.value < found.difference.high  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fault", "texts"),
    [
        ("shuffled", ["worse than the active", "not better than pop", "not better than session"]),
        ("a tenth", ["worse than the active"]),
        ("the future", ["trained on the future: on events up to 2023-11-14 23:13:19+00:00, but"]),
        ("the future, denied", ["trained on the future: 60 of its items have more events in it"]),
    ],
)
def test_what_is_spoiled_is_refused(
    fault: str, texts: list[str], spoiled: dict[str, Bundle], active: Bundle, cut: Split
) -> None:
    """Shuffled sessions, a tenth of the data and the future, owned up to or not, are found out."""
    verdict = judge(spoiled[fault], active, cut.train, cut.test)
    assert not verdict.passed
    for text in texts:
        assert any(reason.startswith(text) for reason in verdict.reasons), verdict.reasons


def test_the_first_bundle_meets_the_yardsticks(
    newer: Bundle, spoiled: dict[str, Bundle], cut: Split
) -> None:
    """With nothing active a good one passes, one of shuffled sessions does not."""
    verdict = judge(newer, None, cut.train, cut.test)
    assert verdict.passed
    assert verdict.active is None
    assert set(verdict.compared) == {"popularity", "session-kNN"}
    assert not judge(spoiled["shuffled"], None, cut.train, cut.test).passed


def test_the_figures_are_those_of_an_evaluation(newer: Bundle, passed: Verdict, cut: Split) -> None:
    """The candidate's, and those of yardsticks fitted on what an honest candidate was."""
    report = evaluate(newer, cut.test, systems=["session_knn"])
    own = passed.compared["popularity"].candidate.value
    assert own == pytest.approx(report.systems["full"]["ndcg@20"], rel=1e-6)
    for name, system in (("popularity", "popular"), ("session-kNN", "session_knn")):
        expected = report.systems[system]["ndcg@20"]
        assert passed.compared[name].other.value == pytest.approx(expected, rel=1e-6)
    assert passed.compared["popularity"].requests == report.samples


def test_the_yardsticks_are_not_the_candidates(newer: Bundle, cut: Split) -> None:
    """Whatever a candidate holds and whichever way it ranks, they are fitted on the log."""
    spoiled = dataclasses.replace(
        newer.config,
        session_knn=dataclasses.replace(newer.config.session_knn, neighbours=1),
    )
    first, second = (fit_yardsticks(cut.train, c, "default") for c in (newer.config, spoiled))
    assert first.config == second.config
    assert (first.session_knn.items == newer.session_knn.items).all()
    assert (first.popularity.counts == newer.popularity.counts).all()


def test_too_few_requests_tell_nothing(newer: Bundle, active: Bundle, cut: Split) -> None:
    """The first bundle of all passes unjudged; one that would replace another waits."""
    few = of_frame(cut.test, cut.test.frame.head(120))
    first, second = (judge(newer, other, cut.train, few) for other in (None, active))
    assert (first.passed, first.judged) == (True, False)
    assert (second.passed, second.judged) == (False, False)
    for verdict in (first, second):
        assert verdict.reasons[0].startswith("not judged: the window has 100 requests of 20 vis")


def test_of_a_large_window_sessions_are_drawn(
    newer: Bundle, cut: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole ones, so many as give the requests wanted, and it is said."""
    monkeypatch.setattr(gate, "MOST_REQUESTS", 420)
    verdict = judge(newer, None, cut.train, cut.test)
    assert verdict.compared["popularity"].visitors == 70  # of six events each
    assert verdict.compared["popularity"].requests == 350
    assert verdict.notes[-1] == "70 of the window's 120 sessions were drawn"


def test_no_requests_tell_nothing(newer: Bundle, active: Bundle, cut: Split) -> None:
    """A window of sessions of one event asks for nothing, and is no accident."""
    ones = of_frame(cut.test, cut.test.frame.unique("session_id", maintain_order=True))
    verdict = judge(newer, active, cut.train, ones)
    assert (verdict.passed, verdict.judged) == (False, False)
    assert verdict.compared["active"].requests == 0
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_what_the_active_bundle_has_seen_is_not_compared(
    newer: Bundle, active: Bundle, cut: Split
) -> None:
    """Only sessions that begin later are; with too few of them the candidate waits."""
    times = cut.test.frame["timestamp"]

    def seen_up_to(moment: float) -> Verdict:
        facts = dataclasses.replace(active.facts, cutoff=moment)
        seeing = dataclasses.replace(active, facts=facts)
        return judge(newer, seeing, cut.train, cut.test)

    part = seen_up_to(float(times[len(times) // 3]))
    whole = part.compared["popularity"].requests
    assert part.passed
    assert 0.6 * whole < part.compared["active"].requests < 0.7 * whole
    all_of_it = seen_up_to(float(times[-1]))
    assert not all_of_it.passed
    assert all_of_it.reasons[0].startswith("not compared with the active bundle")
    assert "0 requests of 0 visitors" in all_of_it.reasons[0]


def estimate(value: float, margin: float) -> Estimate:
    return Estimate(value, value - margin, value + margin)


@pytest.mark.parametrize(
    ("more", "margin", "passes"),
    [
        (0.001, 0.01, True),
        (-0.001, 0.01, True),  # may be chance, and is little
        (-0.001, 0.0005, False),  # little, but surely so
        (-1.5 * TOLERANCE * 0.4, 0.02, False),  # may be chance, but is much
    ],
)
def test_no_worse_than_the_active(more: float, margin: float, passes: bool, active: Bundle) -> None:
    """A loss is refused where it is sure and where it is large."""
    found = Comparison(
        1000, 200, estimate(0.4 + more, 0.1), estimate(0.4, 0.1), estimate(more, margin)
    )
    passed, sentence = not_worse(found, active)
    assert passed == passes
    assert f"0.4000, {more:+.4f} [" in sentence


def test_baskets_need_not_beat_session_knn() -> None:
    """Where order tells nothing session-kNN is no yardstick to beat, but none to fall below."""
    baskets = two_worlds(700).with_columns(pl.col("timestamp").min().over("session_id"))
    cut = held_out(log_from_frame(baskets))
    candidate = train(cut.train, config())
    verdict = judge(candidate, None, cut.train, cut.test)
    assert verdict.protocol == "rest-of-session"
    assert verdict.passed
    assert verdict.reasons[1].startswith("not worse than session-kNN")


def test_without_times(newer: Bundle, active: Bundle, cut: Split) -> None:
    """No cut-off can be compared with row numbers; that is said."""
    facts = dataclasses.replace(active.facts, cutoff=float("inf"))
    later = dataclasses.replace(active, facts=facts)
    verdict = judge(newer, later, cut.train, dataclasses.replace(cut.test, clock="rows"))
    assert verdict.passed
    assert verdict.compared["active"].requests == verdict.compared["popularity"].requests
    assert verdict.notes[-1].startswith("no times in the log")


@pytest.mark.parametrize(("events", "share"), [(100, 0.2), (20_000, 0.1), (500_000, 0.04)])
def test_the_window_unless_asked_for(events: int, share: float) -> None:
    """Its share falls as the log grows; a wish is heard."""
    log = bare(["view"] * events)
    assert len(held_out(log).test.frame) == pytest.approx(share * events, abs=1)
    assert held_out(log, "0.3").cut == split(log, "0.3").cut


def test_what_was_only_shown_is_no_part_of_a_window() -> None:
    """It holds as many clicks as in a log without impressions."""
    shown = bare([*["view"] * 20_000, *["impression", "impression", "view"] * 20_000])
    window = held_out(shown).test.frame
    assert (window["type"] == "view").sum() == pytest.approx(2_000, abs=1)
    assert len(held_out(bare(["search"] * 100)).test.frame) == 20


def bare(types: list[str]) -> Log:
    """Events of so many sessions, a second apart."""
    every = pl.int_range(len(types), eager=True)
    frame = pl.DataFrame({"timestamp": every.cast(pl.Float64), "session_id": every.cast(pl.String)})
    return Log(frame.with_columns(type=pl.Series(types)), len(types), {}, "time", [])


def test_a_window_is_later(newer: Bundle, log: Log, cut: Split) -> None:
    """What precedes it is not to reach into it."""
    with pytest.raises(EvaluationError, match="cut the logs apart"):
        judge(newer, None, log, cut.test)
