"""Cautions: what a log cannot teach, so that nobody reads much into what is made of it."""

from collections.abc import Callable

import polars as pl

HEAD = 10_000  # rows looked at first: nearly every log shows there that there is nothing to say


def cautions(frame: pl.DataFrame, timed: bool) -> list[str]:
    """What is degenerate about a log in standard columns, in time order; empty for most.

    timed: the timestamps are times, not row numbers.
    """
    texts = [text for holds, text in CHECKS if holds(frame.head(HEAD)) and holds(frame)]
    if timed and len(frame) > 1 and frame["timestamp"][0] == frame["timestamp"][-1]:
        texts.append(
            "all events have the same time: none is earlier, so no log can be cut off its end; "
            "evaluate with --train A --test B"
        )
    return texts


def _one_item(frame: pl.DataFrame) -> bool:
    return frame["item_id"].drop_nulls().n_unique() == 1


def _one_session(frame: pl.DataFrame) -> bool:
    return frame["session_id"].n_unique() == 1


def _one_user(frame: pl.DataFrame) -> bool:
    return frame["user_id"].n_unique() == 1 and frame["user_id"][0] is not None


def _no_second_event(frame: pl.DataFrame) -> bool:
    return frame["session_id"].is_unique().all()


def _no_two_items(frame: pl.DataFrame) -> bool:
    """Sessions of several events, all of one item; single events have a text of their own."""
    several = frame.group_by("session_id").agg(pl.len(), pl.col("item_id").n_unique())
    return several["item_id"].max() == 1 and several["len"].max() != 1 and not _one_item(frame)


def _no_item_twice(frame: pl.DataFrame) -> bool:
    return len(frame) > 1 and frame["item_id"].is_unique().all()


# Every caution is one question and one line here.
CHECKS: list[tuple[Callable[[pl.DataFrame], bool], str]] = [
    (_one_item, "one item only: every list is that item, or empty"),
    (_one_session, "one session only: nobody else to learn from, and nothing to evaluate on"),
    (_one_user, "one user only: what others like is unknown, and intervals rest on one visitor"),
    (
        _no_second_event,
        "no session has a second event: nothing shows what follows what; lists are the popular "
        "items, and what is near to a known user's past",
    ),
    (_no_two_items, "no session holds two different items: nothing links one item to another"),
    (
        _no_item_twice,
        "no item occurs twice: popularity is a tie, and what an item goes with is "
        "known from one session at most",
    ),
]
