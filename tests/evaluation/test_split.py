"""The split is temporal: nothing in training is later than anything in test."""

import dataclasses
from types import SimpleNamespace
from typing import cast

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.bundle import Bundle
from recsys.evaluation.split import (
    EvaluationError,
    check_order,
    check_point_in_time,
    split,
)
from recsys.logs import Log, log_from_frame
from tests.synthetic import START, log_frame

DAY = 86400.0


def log_of(times: list[float], sessions: list[str]) -> Log:
    """A log with one view a row, sorted by time."""
    rows: list[dict[str, object]] = [
        {"session_id": session, "item_id": f"i{k}", "timestamp": START + time}
        for k, (time, session) in enumerate(sorted(zip(times, sessions, strict=True)))
    ]
    return log_from_frame(log_frame(rows))


def rows_log(sessions: list[str]) -> Log:
    """A log whose clock is its row order."""
    log = log_of([float(k) for k in range(len(sessions))], sessions)
    numbered = log.frame.with_columns(
        timestamp=pl.int_range(pl.len()).cast(pl.Float64), session_id=pl.Series(sessions)
    )
    return dataclasses.replace(log, frame=numbered, clock="rows")


def bundle_until(cutoff: float, clock: str = "time") -> Bundle:
    """Something that has a bundle's cut-off and clock."""
    facts = SimpleNamespace(clock=clock, cutoff=cutoff)
    return cast("Bundle", SimpleNamespace(version="v", cutoff=cutoff, facts=facts))


@given(
    events=st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcdefgh")), min_size=2),
    share=st.floats(0.05, 0.95),
)
def test_no_future_in_training(events: list[tuple[int, str]], share: float) -> None:
    """For any log: training ends before the cut, test sessions are whole and start after it."""
    log = log_of([float(t) for t, _ in events], [s for _, s in events])
    try:
        parts = split(log, str(share))
    except EvaluationError:
        return  # one part would be empty
    starts = dict(log.frame.group_by("session_id").agg(pl.col("timestamp").min()).iter_rows())
    assert parts.train.frame["timestamp"].max() < parts.cut  # type: ignore[operator]
    for session, time in parts.test.frame.select("session_id", "timestamp").iter_rows():
        assert starts[session] >= parts.cut
        assert time >= parts.cut
    whole = log.frame.filter(pl.col("session_id").is_in(parts.test.frame["session_id"].unique()))
    assert whole.equals(parts.test.frame)
    assert parts.train.frame.equals(log.frame.filter(pl.col("timestamp") < parts.cut))


def test_period() -> None:
    """A period is cut off at the end of the log."""
    log = log_of([0.0, DAY, 2 * DAY, 2.6 * DAY, 3 * DAY], list("abcde"))
    for text in ("1d", "24h", " 1 D", "86400s", "1440m"):
        parts = split(log, text)
        assert parts.test.frame["session_id"].to_list() == ["c", "d", "e"], text
    assert split(log, "0.1w").test.frame["session_id"].to_list() == ["d", "e"]


def test_share() -> None:
    """A share counts events; by default the last tenth is tested."""
    log = log_of([float(k) for k in range(100)], [f"s{k}" for k in range(100)])
    assert len(split(log).test.frame) == 10
    assert len(split(log, "20%").test.frame) == 20
    assert len(split(log, "0.25").test.frame) == 25


def test_straddling_sessions() -> None:
    """Later events of a session that began before the cut are in neither part, and counted."""
    log = log_of([0, 1, 2, 10, 11, 12], ["a", "b", "a", "b", "c", "c"])
    parts = split(log, "2s")
    assert parts.train.frame["session_id"].to_list() == ["a", "b", "a"]
    assert parts.test.frame["session_id"].to_list() == ["c", "c"]
    assert any("1 later events of 1 sessions" in note for note in parts.notes)


def test_says_what_was_chosen() -> None:
    """The first note names the moment of the cut and the rule behind it."""
    log = log_of([float(k) for k in range(100)], [f"s{k}" for k in range(100)])
    assert split(log).notes == (
        "test: sessions from 2023-11-14 22:14:50+00:00 on (the last 10% of the events)",
    )
    assert "(the last 5s)" in split(log, "5s").notes[0]


def test_row_clock() -> None:
    """Without times the last share of the sessions, in order of their start, is tested."""
    log = rows_log(["a"] * 7 + ["b"] + ["c"] * 2)
    parts = split(log, "0.34")
    assert parts.test.frame["session_id"].unique().to_list() == ["c"]
    assert parts.notes == ("test: sessions from row 8 on (the last 34% of the sessions)",)


def test_row_clock_has_no_periods() -> None:
    """A period cannot be cut off a log without times; the error says what to give."""
    with pytest.raises(EvaluationError, match=r"no timestamps.*'10%'"):
        split(rows_log(["a", "b"]), "1d")


@pytest.mark.parametrize("text", ["", "x", "0", "1", "1.5", "100%", "-1d", "1y"])
def test_unreadable(text: str) -> None:
    """What is neither a period nor a share is refused with examples of both."""
    with pytest.raises(EvaluationError, match=r"'36h', '1d', '2w'.*'10%'"):
        split(log_of([0, 1], ["a", "b"]), text)


def test_empty_parts() -> None:
    """A cut that leaves nothing to train on or to test on is refused."""
    log = log_of([0, 1, 2], ["a", "a", "a"])
    with pytest.raises(EvaluationError, match=r"nothing precedes.*shorter"):
        split(log, "1d")
    with pytest.raises(EvaluationError, match=r"no session begins.*longer"):
        split(log, "1s")
    with pytest.raises(EvaluationError, match="empty"):
        split(dataclasses.replace(log, frame=log.frame.clear()))


def test_overlapping_logs() -> None:
    """A training log that reaches into the test log is refused, with both moments."""
    early, late = log_of([0, 10], ["a", "b"]), log_of([5, 20], ["c", "d"])
    with pytest.raises(EvaluationError, match=r"reaches to .*22:13:30.* begins at .*22:13:25"):
        check_order(early, late)
    check_order(log_of([0, 5], ["a", "b"]), late)


def test_row_clocks_cannot_overlap() -> None:
    """Row numbers of two logs are not compared."""
    check_order(rows_log(["a", "b"]), rows_log(["c", "d"]))
    check_point_in_time(bundle_until(1e9, clock="rows"), rows_log(["c"]))


def test_bundle_from_the_future() -> None:
    """A bundle that saw an event after the first test event is refused."""
    log = log_of([0, 10], ["a", "b"])
    with pytest.raises(EvaluationError, match="has seen the future"):
        check_point_in_time(bundle_until(START + 1), log)
    check_point_in_time(bundle_until(START), log)


def people_log(histories: dict[str, list[str]]) -> Log:
    """A log without times in which every user is one session."""
    log = rows_log([user for user, items in histories.items() for _ in items])
    items = [item for items in histories.values() for item in items]
    frame = log.frame.with_columns(user_id=pl.col("session_id"), item_id=pl.Series(items))
    return dataclasses.replace(log, frame=frame)


def test_where_sessions_are_users_each_is_cut() -> None:
    """Without times, the last share of every user's rows is tested, and everybody keeps a row."""
    log = people_log({"u": list("dcbagfehij"), "v": list("zy"), "w": ["x"]})
    parts = split(log, "0.3")
    held = parts.test.frame.group_by("user_id").agg("item_id").sort("user_id")
    assert dict(held.iter_rows()) == {"u": ["h", "i", "j"], "v": ["y"]}
    assert pl.concat([parts.train.frame, parts.test.frame]).sort("timestamp").equals(log.frame)
    assert parts.notes == (
        "test: the last rows of each user, 30%: there are no times, a session is a user",
    )
    with pytest.raises(EvaluationError, match="share of each user's rows"):
        split(log, "1d")
    with pytest.raises(EvaluationError, match="larger share"):
        split(people_log({"v": ["z"], "w": ["x"]}), "0.3")


@pytest.mark.parametrize("ids", [[f"{k}" for k in range(95, 115)], list("abcdefghijklmnopqrst")])
def test_rows_in_item_order_are_drawn(ids: list[str]) -> None:
    """Where a user's rows ascend by item id, their order says nothing: the test rows are drawn."""
    log = people_log({"u": ids, "v": ids})
    parts = split(log, "0.25")
    held = parts.test.frame.group_by("user_id").agg("item_id").sort("user_id")["item_id"].to_list()
    assert [len(items) for items in held] == [5, 5]
    assert held != [ids[-5:], ids[-5:]]
    assert held[0] != held[1]  # each user's own draw
    assert "drawn rows" in parts.notes[0]
    assert split(log, "0.25").test.frame.equals(parts.test.frame)
