"""Show how far bots that hammer one item move its rank, beside what honest traffic moves by itself.

    python scripts/bot_check.py --data ../shared/data

The clicks of RSC15 go through the store in time order. On the last day bot sessions, one to twenty
honest ones, do nothing but view an item of middling rank. Every half hour its rank is looked at: by
``trending``, and by how far that lies above the usual, as GET /v1/trending has it. The noise is the
95 % interval of the same rank when the honest sessions are drawn anew with replacement.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from aggregate_parity import rsc15
from rich.console import Console
from rich.progress import track
from rich.table import Table

from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates, risen
from recsys.config import AGGREGATES, Config
from recsys.embedded import EmbeddedRedis
from recsys.events import Event
from recsys.mirror import mirrored
from recsys.store import Store, StoreConfig

SHARE = 0.05  # bot sessions to honest ones of the day
DAY, EVERY = 86_400.0, 1_800.0
COUNTED = tuple(a for a in AGGREGATES if a.kind == "decayed_count")
CONFIG = Config(aggregate=COUNTED)
LISTS = ("trending", "risen")
# How many views a bot session has, and how many seconds lie between them. Those below the limits
# have as many as they may.
BOTS = {"fast": (120, 1.0), "steady": (60, 10.0), "slow": (20, 60.0), "few": (5, 60.0)}
BOTS["below"] = (0, 60.0)
HAMMERING = ("fast", "steady")

console = Console(stderr=True)
Ranks = dict[str, list[int]]


@dataclass(frozen=True)
class Outcome:
    """One kind of bots in one list. Ranks are medians over the day, ``best`` is the least.

    counted: as if there were no quarantine. inside: the share of looks at which the rank is in the
    interval of honest traffic.
    """

    bots: str
    ranked_by: str
    sessions: int
    quarantined: int
    noise: tuple[float, float]
    rank_without_bots: float
    rank_counted: float
    rank_in_quarantine: float
    best_in_quarantine: int
    inside_without_bots: float
    inside: float
    inside_counted: float


def last_days(folder: Path, days: float) -> pl.DataFrame:
    """The last days of the log, as columns of a log."""
    return (
        rsc15(folder)
        .sort("timestamp")
        .filter(pl.col("timestamp") > pl.col("timestamp").max() - days * DAY)
    )


def rank_of(state: Aggregates, item: str) -> dict[str, int]:
    """From 1, by each list; as many as there are items for one that is not there."""
    numbers = np.arange(len(state.names["item"]), dtype=np.int32)
    number = state.numbers["item"].get(item)
    values = {"trending": state.values(COUNTED[0], numbers), "risen": risen(state, numbers)}
    return {
        name: len(numbers) if number is None else 1 + int((found > found[number]).sum())
        for name, found in values.items()
    }


def ranks_of_log(frame: pl.DataFrame, item: str, looks: Sequence[float]) -> Ranks:
    fold, ranks = LogFold(frame, COUNTED, CONFIG.events), {name: [] for name in LISTS}
    for look in looks:
        for name, rank in rank_of(fold.advance(fold.before(look)), item).items():
            ranks[name].append(rank)
    return ranks


def drawn_anew(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """As many sessions, each as often as it was drawn."""
    sessions = frame["session_id"].unique(maintain_order=True)
    drawn = pl.DataFrame(
        {"session_id": sessions.gather(rng.integers(0, len(sessions), len(sessions)))}
    )
    drawn = drawn.with_row_index("copy")
    return frame.join(drawn, on="session_id").with_columns(
        session_id=pl.format("{}-{}", "session_id", "copy")
    )


def bots(count: int, item: str, kind: str, begin: float, most: int, seed: int) -> pl.DataFrame:
    """Their views. They begin at random moments of the day."""
    views, pause = BOTS[kind]
    rng = random.Random(seed)
    starts = [begin + rng.random() * DAY for _ in range(count)]
    rows = [
        (f"bot-{k}", None, item, "view", start + pause * view, None)
        for k, start in enumerate(starts)
        for view in range(views or most)
    ]
    names = ("session_id", "user_id", "item_id", "type", "timestamp", "value")
    schema = dict(zip(names, (*[pl.String] * 4, pl.Float64, pl.Float64), strict=True))
    return pl.DataFrame(rows, schema, orient="row")


async def ranks_of_stream(
    url: str, config: StoreConfig, frame: pl.DataFrame, item: str, looks: Sequence[float]
) -> tuple[Ranks, int, int]:
    """The ranks; how many bot sessions and how many others were put into quarantine."""
    store = Store(url, config)
    await mirrored(store, CONFIG)
    mirror, ranks = await mirrored(store, CONFIG), {name: list[int]() for name in LISTS}
    names = ("type", "session_id", "item_id", "timestamp")
    events = [
        Event(kind, session, told, timestamp=time)
        for kind, session, told, time in frame.sort("timestamp").select(names).iter_rows()
    ]
    at = 0
    for look in looks:
        while at < len(events) and events[at].timestamp <= look:
            # All of a second at once; they arrive as they happen.
            end = at + 1
            while end < len(events) and events[end].timestamp <= events[at].timestamp + 1:
                end += 1
            await store.append(events[at:end], now=events[end - 1].timestamp)
            at = end
        if not await mirror.catch_up(store):
            mirror = await mirrored(store, CONFIG, declare=False)
        for name, rank in rank_of(mirror.state, item).items():
            ranks[name].append(rank)
    out = [suspect.session_id.startswith("bot-") for suspect in await store.quarantined()]
    await store.close()
    return ranks, sum(out), len(out) - sum(out)


def main() -> int:
    """0 where bots that hammer leave the rank in the noise at 95 % of the looks, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--rank", type=int, default=200, help="of the item as the day begins")
    parser.add_argument("--days", type=float, default=3.0, help="of the log, at its end")
    parser.add_argument("--resamples", type=int, default=40)
    parser.add_argument("--repetition", type=int, default=StoreConfig().max_repetition)
    parser.add_argument("--alike", type=int, default=StoreConfig().max_alike)
    parser.add_argument("--velocity", type=float, default=StoreConfig().max_velocity)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true", help="last line of stdout: one JSON object")
    asked = parser.parse_args()
    frame = last_days(asked.data, asked.days)
    last: float = frame["timestamp"].max()  # type: ignore[assignment]  # not empty
    begin = last - DAY
    looks = [float(look) for look in np.arange(begin + EVERY, last + 1, EVERY)]
    fold = LogFold(frame, COUNTED, CONFIG.events)
    state = fold.advance(fold.before(begin))
    item = state.names["item"][int(state.top(COUNTED[0], asked.rank)[0][-1])]
    count = round(SHARE * frame.filter(pl.col("timestamp") > begin)["session_id"].n_unique())
    without = ranks_of_log(frame, item, looks)
    rng = np.random.default_rng(asked.seed)
    others = [
        ranks_of_log(drawn_anew(frame, rng), item, looks)
        for _ in track(range(asked.resamples), "honest traffic", console=console)
    ]
    bounds = {name: np.percentile([o[name] for o in others], (2.5, 97.5), axis=0) for name in LISTS}
    found: list[Outcome] = []
    honest = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis.start(Path(folder) / "redis") as server,
    ):
        for number, kind in enumerate(track(list(BOTS), "bots", console=console)):
            hammering = bots(count, item, kind, begin, asked.alike, asked.seed)
            both = pl.concat([frame, hammering]).sort("timestamp")
            counted = ranks_of_log(both, item, looks)
            config = StoreConfig(
                f"bots-{number}",
                max_velocity=asked.velocity,
                max_repetition=asked.repetition,
                max_alike=asked.alike,
                timeout=30.0,
            )
            told, out, honest = asyncio.run(ranks_of_stream(server.url, config, both, item, looks))
            for name in LISTS:
                low, high = bounds[name]

                def inside(ranks: list[int], low: Any = low, high: Any = high) -> float:
                    return round(float(np.mean((ranks >= low) & (ranks <= high))), 3)

                found.append(
                    Outcome(
                        kind,
                        name,
                        count,
                        out,
                        (float(np.median(low)), float(np.median(high))),
                        float(np.median(without[name])),
                        float(np.median(counted[name])),
                        float(np.median(told[name])),
                        min(told[name]),
                        inside(without[name]),
                        inside(told[name]),
                        inside(counted[name]),
                    )
                )
    show(found)
    console.print(f"honest sessions in quarantine: {honest} of {frame['session_id'].n_unique():,}")
    if asked.json:
        told_all = [asdict(outcome) for outcome in found]
        print(orjson.dumps({"item": item, "honest_quarantined": honest, "bots": told_all}).decode())
    return int(any(o.bots in HAMMERING and o.inside < 0.95 for o in found))


def show(found: Sequence[Outcome]) -> None:
    table = Table(
        *("bots", "ranked by", "sessions", "caught", "noise", "rank without", "counted"),
        *("in quarantine", "best", "looks in the noise: without", "with", "counted"),
    )
    for o in found:
        noise = f"{o.noise[0]:.0f}-{o.noise[1]:.0f}"
        ranks = (o.rank_without_bots, o.rank_counted, o.rank_in_quarantine, o.best_in_quarantine)
        shares = (
            f"{100 * share:.0f} %" for share in (o.inside_without_bots, o.inside, o.inside_counted)
        )
        row = (o.bots, o.ranked_by, str(o.sessions), str(o.quarantined), noise)
        table.add_row(*row, *(f"{rank:.0f}" for rank in ranks), *shares)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
