"""Freshness: what an engine would have known that sees live events only after a delay."""

from collections.abc import Iterable
from dataclasses import replace

from recsys.durations import seconds_of
from recsys.evaluation.replay import Moment
from recsys.evaluation.split import EvaluationError

CURVE = ("0s", "1m", "5m", "30m", "1h", "6h", "1d")  # where nothing else is asked for


def parse_delays(texts: Iterable[str]) -> dict[str, float]:
    """Delays such as "0s", "5m", "1d" in seconds, ascending; 0 is always among them.

    Raises EvaluationError.
    """
    delays = {"0s": 0.0}
    for text in texts:
        seconds = seconds_of(text)
        if seconds is None:
            raise EvaluationError(
                f"--freshness: {text!r} is not a delay such as 0s, 30s, 5m, 6h, 1d, 1w; "
                "several are separated by commas"
            )
        if seconds not in delays.values():
            delays[text.strip().lower()] = seconds
    return dict(sorted(delays.items(), key=lambda delay: delay[1]))


def check_clock(clocks: Iterable[str]) -> None:
    """Refuse a freshness curve over logs without times. Raises EvaluationError."""
    if "rows" in clocks:
        raise EvaluationError(
            "--freshness: the log has no timestamps, so what is older than a delay cannot be told; "
            "name the column of times with --columns timestamp=NAME, or leave --freshness out"
        )


def stale(moment: Moment, seconds: float) -> Moment:
    """The moment as it looks to an engine that sees only events ``seconds`` old or older.

    Who asks is part of the request, so the user stays. At 0 nothing is hidden. The store's caps are
    those of the moment itself, so of what a cap has dropped by then nothing comes back.
    """
    now = moment.event.timestamp
    events = tuple(e for e in moment.events if now - e.timestamp >= seconds)
    user_events = tuple(e for e in moment.user_events if now - e.timestamp >= seconds)
    hidden = len(moment.events) - len(events)
    return replace(moment, events=events, user_events=user_events, version=moment.version - hidden)
