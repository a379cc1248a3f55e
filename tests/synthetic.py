"""Small logs whose right answers are obvious."""

import dataclasses

import numpy as np
import polars as pl

from recsys.config import AGGREGATES, Config, config_from_dict
from recsys.logs import COLUMNS

SCHEMA = {
    "user_id": pl.String,
    "session_id": pl.String,
    "item_id": pl.String,
    "type": pl.String,
    "timestamp": pl.Float64,
    "value": pl.Float64,
    "event_id": pl.String,
}
TERMS = {"category": pl.List(pl.String), "price": pl.Float64}
START = 1_700_000_000.0  # Unix seconds

# Tables of [[aggregate]] with which no ranker is told what the stream says.
UNTOLD = [{**dataclasses.asdict(aggregate), "ranking": False} for aggregate in AGGREGATES]


def log_frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows in standard columns; what is absent is null, the type is a view, time goes on. Terms are
    columns where a row has some."""
    full = [
        dict.fromkeys(COLUMNS) | {"type": "view", "timestamp": START + k} | row
        for k, row in enumerate(rows)
    ]
    told = {name: kind for name, kind in TERMS.items() if any(name in row for row in rows)}
    return pl.DataFrame(full, schema=SCHEMA | told)


def checkerboard(users: int = 40, items: int = 20, per_session: int = 6) -> pl.DataFrame:
    """Even users view even items, odd users odd ones; each user has two sessions."""
    rows: list[dict[str, object]] = []
    for user in range(users):
        side = [f"i{k}" for k in range(items) if k % 2 == user % 2]
        for session in range(2):
            for k in range(per_session):
                item = side[(user // 2 + session * per_session + k) % len(side)]
                rows.append(
                    {"user_id": f"u{user}", "session_id": f"u{user}-{session}", "item_id": item}
                )
    return log_frame(rows)


def two_worlds(sessions: int, *, known: bool = False, kind: str = "view") -> pl.DataFrame:
    """Sessions of four of 24 items that stay on the even or the odd side, the sides taking turns.

    known: every session is of one of ten users, who switch sides from session to session.
    """
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for s in range(sessions):
        side = (s + s // 10) % 2
        for item in rng.choice(12, 4, replace=False):
            user = f"u{s % 10}" if known else None
            rows.append(
                {
                    "session_id": f"s{s}",
                    "user_id": user,
                    "item_id": f"i{2 * item + side}",
                    "type": kind,
                }
            )
    return log_frame(rows)


def walks(sessions: int, items: int = 60, length: int = 6) -> pl.DataFrame:
    """Sessions that go from an item to the one after it, but three times in ten to any."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for s in range(sessions):
        at = int(rng.integers(items))
        for _ in range(length):
            rows.append({"session_id": f"s{s}", "item_id": f"i{at}"})
            at = (at + 1) % items if rng.random() < 0.7 else int(rng.integers(items))
    return log_frame(rows)


def returning(users: int = 40) -> pl.DataFrame:
    """The checkerboard with all first sessions before all second ones: everybody comes back."""
    frame = checkerboard(users)
    first = pl.col("session_id").str.ends_with("-0")
    times = frame["timestamp"]
    return pl.concat([frame.filter(first), frame.filter(~first)]).with_columns(timestamp=times)


def small_config(**tables: object) -> Config:
    """A configuration that trains in milliseconds."""
    embedding = {"embedding_size": 8, "epochs": 5}
    return config_from_dict({"embedding": embedding, **tables})
