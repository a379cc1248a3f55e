"""The loop, closed: what visitors do becomes the bundle that they are served from, by one command.

Trains on a log's past, serves it with two workers, and posts the rest of the log as traffic. Once
the files of the lake hold that, `recsys train PAST EVENTS --gate` runs while the server goes on,
and the server is asked until it answers from the new bundle. No file is touched by hand.

    python scripts/loop_check.py clicks.parquet --columns session_id=session,item_id=item
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
from rich.console import Console

from api.live_check import serving
from recsys.cli import columns_of
from recsys.evaluation.split import split
from recsys.logs import load_log

console = Console(stderr=True)

BATCH = 500  # events posted at a time
PATIENCE = 60.0  # seconds for files to hold what was posted, and for workers to switch


class LoopError(RuntimeError):
    """The loop is broken; the text says where."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", nargs="+", type=Path)
    parser.add_argument("--columns", default="", help="other names: session_id=visit,item_id=sku")
    parser.add_argument("--holdout", default="1d", help="what is traffic: 36h, 1d, 2w or 0.1")
    asked = parser.parse_args()
    parts = split(load_log(asked.log, columns=columns_of(asked.columns)), asked.holdout)
    with tempfile.TemporaryDirectory(prefix="recsys-loop-") as name:
        past = Path(name) / "past.parquet"
        parts.train.frame.write_parquet(past)
        try:
            result = run(Path(name), past, parts.test.frame.to_dicts())
        except LoopError as error:
            console.print(f"[red]broken:[/] {error}", highlight=False)
            return 1
    print(orjson.dumps(result).decode())
    return 0


def run(folder: Path, past: Path, traffic: list[dict[str, Any]]) -> dict[str, Any]:
    """Once around; what came of it. Raises LoopError."""
    first = train(folder, past)
    with serving(folder) as address, httpx.Client(base_url=address, timeout=30) as client:
        start = time.monotonic()
        for at in range(0, len(traffic), BATCH):
            post(client, traffic[at : at + BATCH])
        posted = time.monotonic() - start
        until(lambda: lag(client) == 0, "the files of the lake do not hold the traffic")
        written = time.monotonic() - start
        second = train(folder, past, folder / "events")
        switching = time.monotonic()
        until(lambda: served(client) == second["bundle"], "the server does not switch")
        switched = time.monotonic() - switching
        session = str(traffic[-1]["session_id"])
        answer = client.post("/v1/recommendations", json={"session_id": session, "n": 5}).json()
    if answer["bundle"] != second["bundle"] or second["bundle"] == first["bundle"]:
        raise LoopError(f"answered from {answer['bundle']}, trained was {second['bundle']}")
    if second["events"]["read"] < first["events"]["read"] + len(traffic):
        raise LoopError(f"{second['events']['read']} events were read: traffic is missing")
    return {
        "traffic": len(traffic),
        "posted_per_second": round(len(traffic) / posted),
        "seconds_until_in_files": round(written, 1),
        "seconds_until_switched": round(switched, 1),
        "before": {name: first[name] for name in ("bundle", "events", "items", "sessions")},
        "after": {name: second[name] for name in ("bundle", "events", "items", "sessions")},
        "gate": second["gate"],
        "answer": answer,
    }


def train(folder: Path, *logs: Path) -> dict[str, Any]:
    """The one command. Raises LoopError where no bundle became active."""
    command = [sys.executable, "-m", "recsys.cli", "train", *map(str, logs), "--gate", "--json"]
    console.print("recsys train", *(log.name for log in logs), "--gate", highlight=False)
    done = subprocess.run(
        [*command, "--data-dir", str(folder)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise LoopError(f"recsys train ended with status {done.returncode}: {done.stdout}")
    told: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return told


def post(client: httpx.Client, events: list[dict[str, Any]]) -> None:
    given = [{name: of for name, of in event.items() if of is not None} for event in events]
    answer = client.post("/v1/events", json={"events": given})
    if answer.status_code != 202 or answer.json()["accepted"] != len(events):
        raise LoopError(f"not all events were accepted: {answer.status_code} {answer.text}")


def lag(client: httpx.Client) -> float:
    """Events that are in no file yet."""
    lines = client.get("/metrics").text.splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith("recsys_log_lag_events")
    )


def served(client: httpx.Client) -> str:
    return str(client.get("/health/ready").json()["bundle"])


def until(true: Any, otherwise: str) -> None:
    start = time.monotonic()
    while not true():
        if time.monotonic() - start > PATIENCE:
            raise LoopError(f"{otherwise} after {PATIENCE:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
