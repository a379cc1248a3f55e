"""An engine that lags sees what it would have seen, and not one event more."""

from dataclasses import replace

import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.evaluation import systems
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.freshness import check_clock, parse_delays, stale
from recsys.evaluation.replay import replay, samples
from recsys.evaluation.split import EvaluationError
from recsys.evaluation.systems import Panel
from recsys.logs import Log, log_from_frame
from recsys.recommend import recommend
from recsys.session import Session
from recsys.training import train
from tests.synthetic import START, log_frame, small_config

DAY = 86_400.0
MINUTES = (0, 1, 2)  # when a visitor looks at p0, p1, p2


def pairs() -> Bundle:
    """Whoever saw p0 saw q0 too, and so on; z is what most people see."""
    rows: list[dict[str, object]] = []
    for k in range(60):
        rows += [{"session_id": f"s{k}", "item_id": f"{half}{k % 3}"} for half in "pq"]
    rows += [{"session_id": f"z{k}", "item_id": "z"} for k in range(100)]
    # One source alone, so that nothing but the latest item that is seen decides the first place.
    config = replace(small_config(), placements={"default": Placement((), ranking="item_knn")})
    return train(log_from_frame(log_frame(rows)), config)


def visits(targets: str) -> Log:
    """Each visitor looks at p0, p1, p2, a minute apart, then at the item that "0", "1", "2", "z"
    stand for: q0, q1, q2, z."""
    rows: list[dict[str, object]] = []
    for v, target in enumerate(targets):
        path = [*(f"p{k}" for k in MINUTES), "z" if target == "z" else f"q{target}"]
        rows += [
            {"session_id": f"v{v}", "item_id": item, "timestamp": START + DAY * (v + 1) + 60 * k}
            for k, item in enumerate(path)
        ]
    return log_from_frame(log_frame(rows))


def test_the_right_answer_at_each_delay() -> None:
    """Two minutes in, no delay finds q2, one minute q1, two minutes q0, more the popular z."""
    log = visits("222211100z")
    report = evaluate(
        pairs(), log, min_prefix=3, at=(1,), freshness=["0s", "1m", "61s", "2m", "1h", "1d"]
    )
    curve = {delay.delay: delay.figures["hr@1"] for delay in report.freshness}
    expected = {"0s": 0.4, "1m": 0.3, "61s": 0.2, "2m": 0.2, "1h": 0.1, "1d": 0.1}
    assert curve == pytest.approx(expected)
    assert report.systems["full"]["hr@1"] == pytest.approx(0.4)
    lost = {delay.delay: delay.loss["hr@1"] for delay in report.freshness}
    assert lost["0s"].difference.to_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert lost["1h"].difference.value == pytest.approx(0.3)
    assert lost["1h"].relative.value == pytest.approx(0.75)
    low, high = lost["1h"].difference.low, lost["1h"].difference.high
    assert low is not None
    assert high is not None
    assert -0.2 < low < 0.3 < high < 0.9


def test_the_curve_is_paired() -> None:
    """Where every visitor loses the same, the interval of the loss has no width."""
    report = evaluate(pairs(), visits("2" * 9), min_prefix=3, at=(1,), freshness=["1m"])
    assert [delay.delay for delay in report.freshness] == ["0s", "1m"]
    assert report.freshness[1].loss["hr@1"].difference.to_dict() == {
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
    }


@pytest.mark.parametrize("delay", [0.5, 1.0, 7.0, 1000.0])
def test_nothing_newer_reaches_recommend(
    known: tuple[Bundle, Log], delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No session handed to recommend for a delay holds an item or a moment newer than it."""
    bundle, test = known
    panel = Panel(bundle, "default", 5, delays=[delay])
    told: list[Session] = []

    def listening(bundle: Bundle, session: Session, *rest: object) -> object:
        told.append(session)
        return recommend(bundle, session, *rest)  # type: ignore[arg-type]

    found = list(samples(test.frame, bundle.config))
    monkeypatch.setattr(systems, "recommend", listening)
    for sample in found[:: len(found) // 40]:
        now = sample.moment.event.timestamp
        panel._stale(sample, (), ())
        (session,) = told
        told.clear()
        assert session.moment <= now - delay
        user = sample.moment.user_id
        old = test.frame.filter(pl.col("user_id") == user, pl.col("timestamp") <= now - delay)
        assert {*session.current.items, *session.past.items} == set(old["item_id"])
        assert session.user_id == user


def test_delays_that_hide_the_same_are_asked_once(
    anonymous: tuple[Bundle, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events come a second apart, so three delays within one second take one list."""
    bundle, test = anonymous
    sample = list(samples(test.frame, bundle.config))[2]
    panel = Panel(bundle, "default", 5, delays=[0.2, 0.5, 0.9, 1.5])
    calls = []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return recommend(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(systems, "recommend", counted)
    assert len(panel._stale(sample, (), ())) == 4
    assert len(calls) == 2


def test_no_delay_hides_nothing() -> None:
    """At 0 the moment is as it is, events of the same time included."""
    frame = log_frame([{"session_id": "s", "item_id": i, "timestamp": START} for i in "abc"])
    for moment in replay(frame):
        assert stale(moment, 0.0) == moment
        assert stale(moment, 0.001).events == ()


def test_delays_as_people_write_them() -> None:
    """Delays are sorted, 0 is always there, and what is none is named."""
    assert parse_delays([" 1H", "30s", "1.5m", "60m"]) == {
        "0s": 0.0,
        "30s": 30.0,
        "1.5m": 90.0,
        "1h": 3600.0,
    }
    for wrong in ("5", "m", "-1s", "5 minutes", ""):
        with pytest.raises(EvaluationError, match="is not a delay such as 0s"):
            parse_delays([wrong])


def test_a_log_without_times_is_refused(anonymous: tuple[Bundle, Log]) -> None:
    """Row numbers are no times: the error says so and what to do."""
    bundle, test = anonymous
    rows = replace(test, clock="rows")
    with pytest.raises(EvaluationError, match=r"no timestamps.*--columns timestamp=NAME"):
        evaluate(bundle, rows, freshness=["1m"])
    check_clock(("time", "time"))
    assert evaluate(bundle, rows).freshness == []
