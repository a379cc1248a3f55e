"""Split: a log cut at one moment into training and test, never at random."""

import dataclasses
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from recsys.bundle import Bundle
from recsys.durations import seconds_of
from recsys.events import InputError
from recsys.logs import Log

# A share of the events rather than of the time span: one stray early date would stretch the span.
DEFAULT_TEST = "10%"

SEED = 42  # of the rows drawn where their order means nothing


class EvaluationError(InputError):
    """What was given cannot be evaluated honestly; the text says why and what to do."""


@dataclass(frozen=True)
class Split:
    """train: every event before ``cut``. test: sessions that start at or after it.

    cut: Unix seconds, or a row number where the log's clock is its row order; NaN where each user's
    events are cut apart. notes: what was
    chosen and what was left out, for people.
    """

    train: Log
    test: Log
    cut: float
    notes: tuple[str, ...]


def split(log: Log, test: str = DEFAULT_TEST) -> Split:
    """Cut a log so that nothing in training is later than anything in test.

    test: a period at the end ("36h", "1d", "2w"), or a share ("10%", "0.1") of the events, of the
    sessions in order of their start where the clock is row order, of each user's events where the
    sessions then are the users: whole users at the end would tell nothing of those who stay. Events
    after the cut of sessions that began before it are in neither part: in training they would be
    the future, in test their session would lack its beginning. Raises EvaluationError.
    """
    if log.frame.is_empty():
        raise EvaluationError("the log is empty: nothing to split")
    if not has_order(log):
        return _within_users(log, test)
    cut = _cut(log, test)
    time, start = pl.col("timestamp"), pl.col("timestamp").min().over("session_id")
    train = log.frame.filter(time < cut)
    later = log.frame.filter(time >= cut, start >= cut)
    straddling = log.frame.filter(time >= cut, start < cut)
    notes = [f"test: sessions from {when(log.clock, cut)} on ({_chosen(log.clock, test)})"]
    if len(straddling):
        notes.append(
            f"left out: {len(straddling)} later events of {straddling['session_id'].n_unique()} "
            "sessions that began before the cut"
        )
    if train.is_empty():
        raise EvaluationError(f"nothing precedes the test part of {test!r}: choose a shorter one")
    if later.is_empty():
        raise EvaluationError(
            f"no session begins in the test part of {test!r}: choose a longer one"
        )
    return Split(
        train=dataclasses.replace(log, frame=train),
        test=dataclasses.replace(log, frame=later),
        cut=cut,
        notes=tuple(notes),
    )


def has_order(log: Log) -> bool:
    """Whether the end of a log is its latest part.

    Without times, and where the sessions are the users, more than one of them, it is but the last
    of its users.
    """
    if log.clock == "time":
        return True
    users, sessions = log.frame["user_id"], log.frame["session_id"]
    pairs = log.frame.select("user_id", "session_id").n_unique()
    return not (users.null_count() == 0 and 1 < pairs == users.n_unique() == sessions.n_unique())


def check_order(train: Log, test: Log) -> None:
    """Raise EvaluationError unless all of ``train`` precedes all of ``test``.

    Row orders of two logs cannot be compared: there the caller vouches for the order.
    """
    for which, part in (("training", train), ("test", test)):
        if part.frame.is_empty():
            raise EvaluationError(f"the {which} log is empty")
    if "rows" in (train.clock, test.clock):
        return
    last, first = train.frame["timestamp"][-1], test.frame["timestamp"][0]
    if last > first:
        raise EvaluationError(
            f"the training log reaches to {when('time', last)}, but the test log begins at "
            f"{when('time', first)}: the model would have seen the future; cut the logs apart, "
            "or give one log and let it be split"
        )


def check_point_in_time(bundle: Bundle, test: Log) -> None:
    """Raise EvaluationError if the bundle saw events later than the first test event."""
    if test.frame.is_empty():
        raise EvaluationError("the test log is empty")
    if "rows" in (bundle.facts.clock, test.clock):
        return
    first = test.frame["timestamp"][0]
    if bundle.cutoff > first:
        raise EvaluationError(
            f"bundle {bundle.version} was trained on events up to "
            f"{when('time', bundle.cutoff)}, but the test log begins at {when('time', first)}: "
            "it has seen the future; train on what precedes the test log"
        )


def _within_users(log: Log, test: str) -> Split:
    """The last share of each user's rows, or drawn ones where the rows are in order of item ids."""
    period, share = _parse(test)
    if period is not None:
        raise EvaluationError(_no_periods(test, "each user's rows"))
    drawn = _in_item_order(log.frame)
    # Drawn over the whole log: by the same seed, users of as many rows would lose the same places.
    lots = pl.int_range(len(log.frame), eager=True)
    lots = lots.shuffle(seed=SEED) if drawn else lots
    place = pl.col("lot").rank("ordinal")
    count = pl.len()
    # Everybody keeps a row to train on.
    held = pl.min_horizontal((count * share).round().cast(pl.Int64), count.cast(pl.Int64) - 1)
    last = (place > count - held).over("user_id")
    is_test = log.frame.with_columns(lot=lots).select(last).to_series()
    train, later = log.frame.filter(~is_test), log.frame.filter(is_test)
    if later.is_empty():
        raise EvaluationError(
            f"no user has rows enough to hold out {test!r}: choose a larger share"
        )
    which = "drawn rows, as each user's are in order of item ids" if drawn else "the last rows"
    share_text = test if test.endswith("%") else f"{share:.0%}"
    return Split(
        train=dataclasses.replace(log, frame=train),
        test=dataclasses.replace(log, frame=later),
        cut=math.nan,
        notes=(
            f"test: {which} of each user, {share_text}: there are no times, a session is a user",
        ),
    )


def _in_item_order(frame: pl.DataFrame) -> bool:
    """Whether every user's rows ascend by item id, as text or number: no order of events."""
    items = frame["item_id"]
    numbers = items.cast(pl.Float64, strict=False)
    keys = [items] if numbers.null_count() else [items, numbers]
    columns = [key.alias(f"key{k}") for k, key in enumerate(keys)]
    steps = frame.select("user_id", *columns).select(
        (pl.col(c.name) >= pl.col(c.name).shift(1)).over("user_id").all() for c in columns
    )
    return any(steps.row(0)) and items.n_unique() > 1


def _no_periods(test: str, of_what: str) -> str:
    return (
        f"the log has no timestamps, so a period ({test!r}) cannot be cut off; "
        f"give a share of {of_what}, such as {DEFAULT_TEST!r}"
    )


def _cut(log: Log, test: str) -> float:
    """The first moment of the test part."""
    period, share = _parse(test)
    times = log.frame["timestamp"]
    if period is not None:
        if log.clock == "rows":
            raise EvaluationError(_no_periods(test, "its sessions"))
        return float(times[-1]) - period
    if log.clock == "rows":
        times = log.frame.group_by("session_id").agg(pl.col("timestamp").min())["timestamp"].sort()
    return float(times[min(round(len(times) * (1.0 - share)), len(times) - 1)])


def _parse(test: str) -> tuple[float | None, float]:
    """A period in seconds, or None and a share."""
    text = test.strip().lower()
    if (period := seconds_of(text)) is not None:
        return period, 0.0
    if found := re.fullmatch(r"(\d*\.?\d+)(%?)", text):
        share = float(found[1]) / (100.0 if found[2] else 1.0)
        if 0.0 < share < 1.0:
            return None, share
    raise EvaluationError(
        f"{test!r} is neither a period such as '36h', '1d', '2w' nor a share such as '10%', '0.1'"
    )


def _chosen(clock: str, test: str) -> str:
    if seconds_of(test) is not None:
        return f"the last {test}"
    share = test if test.endswith("%") else f"{float(test):.0%}"
    return f"the last {share} of the {'sessions' if clock == 'rows' else 'events'}"


def when(clock: str, moment: float) -> str:
    """A moment of a log in words. clock: of the log."""
    if clock == "rows":
        return f"row {moment:.0f}"
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):  # beyond the years that datetime knows
        return f"{moment:.0f} s"
