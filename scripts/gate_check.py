"""Check on real clicks what the gate lets through: --help tells how.

The active bundle is trained on the log but for its newest two windows; candidates on what precedes
the newest one, as it is and spoiled in ways that a pipeline may spoil it.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import polars as pl
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from recsys.bundle import Bundle, sealed
from recsys.config import Config
from recsys.gate import Verdict, held_out, judge
from recsys.logs import Log, load_log
from recsys.metrics import Estimate
from recsys.training import train

FILE = "rsc15-100k-clicks.parquet"
SEED = 7
OTHERS = ("active", "popularity", "session-kNN")
console = Console(stderr=True, width=140)


def main() -> int:
    """Judge all candidates; 0 if the gate lets through those it should, and no other, else 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--window", help="a period or share; default: that of recsys train --gate")
    asked = parser.parse_args()
    log = load_log([asked.data / FILE], columns={"session_id": "session", "item_id": "item"})
    cut = held_out(log, asked.window)
    older = held_out(cut.train, asked.window).train
    found: dict[str, tuple[bool, Verdict]] = {}
    with threadpool_limits(1):
        active = train(older)
        for name, (wanted, make) in CANDIDATES.items():
            start = time.perf_counter()
            candidate = make(Parts(log, cut.train, older))
            trained = time.perf_counter()
            verdict = judge(candidate, active, cut.train, cut.test)
            found[name] = (wanted, verdict)
            spent = f"trained {trained - start:.0f} s, judged {time.perf_counter() - trained:.0f} s"
            console.print(f"{name}: {_word(verdict.passed)} ({spent})", highlight=False)
            for reason in verdict.reasons:
                console.print(f"    {reason}", highlight=False)
    console.print("ndcg@20 of the next item; what a candidate has more, with its 95 % interval")
    console.print(_table(found))
    right = all(verdict.passed == wanted for wanted, verdict in found.values())
    print(
        orjson.dumps(
            {
                "right": right,
                "active": active.version,
                "candidates": {name: verdict.to_dict() for name, (_, verdict) in found.items()},
            }
        ).decode()
    )
    return 0 if right else 1


@dataclasses.dataclass(frozen=True)
class Parts:
    """A log, what precedes its newest window, and what precedes the newest window of that."""

    whole: Log
    past: Log
    older: Log


def _newer(log: Parts) -> Bundle:
    """What the active bundle was trained on, and a window more."""
    return train(log.past)


def _again(log: Parts) -> Bundle:
    """What the active bundle was trained on, from another seed."""
    config = Config()
    training = dataclasses.replace(config.training, seed=config.training.seed + 1)
    return train(log.older, dataclasses.replace(config, training=training))


def _shuffled(log: Parts) -> Bundle:
    """Every item where any other stood."""
    return _of(log, log.past.frame.with_columns(pl.col("item_id").shuffle(seed=SEED)))


def _out_of_order(log: Parts) -> Bundle:
    """Every session with its own items, in any order."""
    items = pl.col("item_id").shuffle(seed=SEED).over("session_id")
    return _of(log, log.past.frame.with_columns(items))


def _tenth(log: Parts) -> Bundle:
    """A tenth of the sessions, drawn."""
    sessions = log.past.frame.select("session_id").unique(maintain_order=True)
    drawn = sessions.sample(fraction=0.1, seed=SEED)
    return _of(log, log.past.frame.join(drawn, on="session_id", how="semi", maintain_order="left"))


def _newest_tenth(log: Parts) -> Bundle:
    """A tenth of the events, the newest."""
    return _of(log, log.past.frame.tail(len(log.past.frame) // 10))


def _future(log: Parts) -> Bundle:
    """All of the log, the window too."""
    return train(log.whole)


def _denied_future(log: Parts) -> Bundle:
    """All of the log, with a cut-off that says otherwise."""
    bundle = train(log.whole)
    facts = dataclasses.replace(bundle.facts, cutoff=float(log.past.frame["timestamp"][-1]))
    return sealed(dataclasses.replace(bundle, facts=facts))


def _of(log: Parts, frame: pl.DataFrame) -> Bundle:
    return train(dataclasses.replace(log.past, frame=frame))


# Name: whether it should pass, and how it is made.
CANDIDATES: dict[str, tuple[bool, Callable[[Parts], Bundle]]] = {
    "newer": (True, _newer),
    "another seed": (True, _again),
    "items shuffled among sessions": (False, _shuffled),
    "order shuffled within sessions": (False, _out_of_order),
    "a tenth of the sessions": (False, _tenth),
    "the newest tenth": (False, _newest_tenth),
    "the future": (False, _future),
    "the future, denied": (False, _denied_future),
}


def _table(found: dict[str, tuple[bool, Verdict]]) -> Table:
    table = Table("candidate", "verdict", "wanted", "its own", *OTHERS, box=SIMPLE)
    for name, (wanted, verdict) in found.items():
        shown = [verdict.compared.get(other) for other in OTHERS]
        own = f"{shown[0].candidate.value:.4f}" if shown[0] else ""
        lifts = [_interval(c.difference) if c else "" for c in shown]
        table.add_row(name, _word(verdict.passed), _word(wanted), own, *lifts)
    return table


def _interval(more: Estimate) -> str:
    return f"{more.value:+.4f} [{more.low:+.4f}, {more.high:+.4f}]"


def _word(passed: bool) -> str:
    return "passed" if passed else "refused"


if __name__ == "__main__":
    sys.exit(main())
