"""Measure what filters cost: requests under masks of several sizes, and the masks themselves.

    python scripts/bench_filters.py
    python scripts/bench_filters.py --bundle data/bundles/VERSION

Requests take turns, so that each kind meets the same minute of the machine; ratios are against
requests without a filter. "cached" is a filter that was asked for before, "anew" one after a change
of the catalogue. Without --bundle: synthetic sessions over 40,000 items.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from recsys import bundle as bundles
from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.config import config_from_dict
from recsys.events import Event
from recsys.filters import Masks, filter_of
from recsys.items import Item
from recsys.recommend import Request, recommend
from recsys.session import Session
from recsys.training import train

ITEMS = 40_000
QUICK = {
    "embedding": {"embedding_size": 32, "epochs": 2},
    "session_embedding": {"epochs": 1},
    "ranker": {"requests": 10_000},
}
FILTERS = {
    "0.1 %": {"properties.lot": 0},
    "1 %": {"properties.lot": {"lt": 10}},
    "10 %": {"properties.lot": {"lt": 100}},
    "50 %": {"properties.lot": {"lt": 500}},
    "5 conditions": {
        "properties.lot": {"lt": 500},
        "price": {"ge": 5, "lt": 90},
        "in_stock": True,
        "category": ["c1", "c2", "c3", "c4"],
        "properties.brand": {"ne": "b7"},
    },
}


def synthetic(sessions: int, seed: int) -> Bundle:
    """Sessions that wander within one of 400 neighbourhoods, some items of which are popular."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 400, sessions)
    lengths = rng.integers(2, 9, sessions)
    session = np.repeat(np.arange(sessions), lengths)
    near = np.minimum(rng.exponential(20, len(session)).astype(int), 99)
    items = np.concatenate([np.repeat(first, lengths) * 100 + near, np.arange(ITEMS)])
    session = np.concatenate([session, sessions + np.arange(ITEMS) // 4])
    log = pl.DataFrame({"session_id": session, "item_id": items}).cast(pl.String)
    return train(log, config_from_dict(QUICK))


def catalogue(bundle: Bundle, seed: int) -> Catalog:
    rng = np.random.default_rng(seed)
    catalog = Catalog()
    lots = rng.permutation(len(bundle.items)) % 1000
    for item_id, lot in zip(bundle.items.ids(range(len(bundle.items))), lots.tolist(), strict=True):
        item = Item(
            title=f"Item {item_id}",
            category=tuple(f"c{k}" for k in rng.integers(0, 20, 2)),
            price=float(rng.integers(1, 10_000)) / 100,
            in_stock=bool(rng.random() < 0.9),
            properties={"lot": lot, "brand": f"b{rng.integers(0, 50)}"},
        )
        catalog.upsert(item_id, item)
    return catalog


def visitors(bundle: Bundle, count: int, seed: int) -> list[Session]:
    """Sessions of one to eight items near each other in the session embedding."""
    rng = np.random.default_rng(seed)
    found = []
    for start in rng.integers(0, len(bundle.items) // 4, count).tolist():
        vector = bundle.session_embedding.item_vectors[start]
        rows, _ = bundle.session_index.search(vector, 20)
        items = bundle.items.ids(rng.choice(rows, int(rng.integers(1, 9))))
        found.append(
            Session.from_events(
                [Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)]
            )
        )
    return found


def timed(call: Callable[[], object]) -> float:
    """Microseconds."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def report(name: str, times: list[float], base: float) -> None:
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    print(f"{name:24} {p50:9.0f} {p90:9.0f} {p99:9.0f} {np.median(times) / base:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=60_000, help="of the synthetic log")
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--placement", default="default")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    bundle = bundles.load(args.bundle) if args.bundle else synthetic(args.sessions, args.seed)
    items = bundle.items
    print(f"{len(items)} items, {bundle.facts.ranker}")
    catalog = catalogue(bundle, args.seed)
    masks = Masks(catalog)
    print(f"alignment with a bundle: {timed(lambda: catalog.rows(items)) / 1000:.0f} ms")
    filters = {name: filter_of(data) for name, data in FILTERS.items()}
    for field in ("price", "in_stock", "category", "properties.lot", "properties.brand"):
        took = timed(lambda name=field: catalog.column(name)) / 1000
        print(f"column of {field}: {took:.0f} ms")
    sessions = visitors(bundle, 200, args.seed)
    times: dict[str, list[float]] = {"no filter": []}
    changed = items.ids([0])[0]
    short = 0

    def ask(session: Session, name: str | None) -> None:
        nonlocal short
        allowed = masks.of(items, filters[name]) if name else None
        wanted = Request(args.n, args.placement, allowed=allowed)
        answer = recommend(bundle, session, wanted)
        if allowed is not None:
            rows = items.rows(answer.item_ids)
            assert allowed[rows].all()
            short += len(rows) < min(args.n, int(allowed.sum()) - len(session.current.items))

    for k in range(args.requests + 20):
        session = sessions[k % len(sessions)]
        taken = {"no filter": timed(lambda s=session: ask(s, None))}
        for name, wanted in filters.items():
            before = catalog.get(changed)
            catalog.upsert(changed, Item(price=float(k), properties={"lot": k % 999}))
            taken[f"{name}, mask alone"] = timed(lambda w=wanted: masks.of(items, w))
            catalog.upsert(changed, before)
            taken[f"{name}, anew"] = timed(lambda s=session, f=name: ask(s, f))
            taken[f"{name}, cached"] = timed(lambda s=session, f=name: ask(s, f))
        if k >= 20:  # the first ones compile
            for name, value in taken.items():
                times.setdefault(name, []).append(value)
    print(f"{'µs':24} {'p50':>9} {'p90':>9} {'p99':>9} {'ratio':>8}")
    for name, measured in times.items():
        report(name, measured, float(np.median(times["no filter"])))
    changes = [
        timed(lambda c=float(k): catalog.upsert(changed, Item(price=c))) for k in range(5000)
    ]
    report("one change", changes, float(np.median(times["no filter"])))
    print(f"lists that could have been longer: {short}")


if __name__ == "__main__":
    main()
