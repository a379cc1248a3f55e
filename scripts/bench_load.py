"""Measure loading a log, and folding it to matrices: rows per second and peak memory over the size
of the loaded frame.

    python scripts/bench_load.py --rows 10000000

Each load runs in a child process of its own, so that peaks do not add up.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from recsys.config import Config
from recsys.interactions import fold
from recsys.logs import load_log

KINDS = ("parquet", "shuffled.parquet", "users.parquet", "csv", "jsonl")
START = 1.7e9  # Unix seconds of the first event


def write_logs(folder: Path, rows: int) -> None:
    """The same events as every kind of file: typical ids, time order, unique event ids."""
    rng = np.random.default_rng(42)
    types = pl.Series(["view", "cart", "purchase"])
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, rows // 20 + 1, rows),
            "session_id": rng.integers(0, rows // 5 + 1, rows),
            "item_id": rng.zipf(1.3, rows).clip(max=100_000),
            "type": types.gather(rng.choice(3, rows, p=[0.9, 0.07, 0.03])),
            "timestamp": START + np.sort(rng.random(rows)) * 30 * 86400,
            "value": rng.random(rows).round(2) * 100,
            "event_id": np.arange(rows),
        }
    ).with_columns(session_id=pl.format("s{}", "session_id"), event_id=pl.format("e{}", "event_id"))
    log.write_parquet(folder / "log.parquet")
    log.write_csv(folder / "log.csv")
    log.write_ndjson(folder / "log.jsonl")
    log.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / "log.shuffled.parquet")
    log.drop("session_id").write_parquet(folder / "log.users.parquet")


def measure(path: Path) -> dict[str, float]:
    """Load one file in this process."""
    before = peak_bytes()
    start = time.perf_counter()
    log = load_log([path])
    loaded = time.perf_counter() - start
    fold(log.frame, Config().events)
    seconds = time.perf_counter() - start
    texts = sum(dtype == pl.String for dtype in log.frame.dtypes)
    size = log.read * (16 * texts + 8 * (log.frame.width - texts))  # a short String takes 16 bytes
    peak = peak_bytes()
    return {
        "rows_per_s": round(log.read / loaded),
        "to_csr_per_s": round(log.read / seconds),
        "seconds": round(seconds, 2),
        "frame_mb": round(size / 1e6),
        "peak_mb": round(peak / 1e6),
        "peak_over_frame": round((peak - before) / size, 2),
    }


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write", type=Path, help="write the logs into this folder and stop")
    parser.add_argument("--load", type=Path, help="load this file and print one line of JSON")
    args = parser.parse_args()
    if args.write:
        write_logs(args.write, args.rows)
    elif args.load:
        print(json.dumps(measure(args.load)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_child("--write", folder, "--rows", str(args.rows))
            for kind in KINDS:
                print(f"{kind:17}", run_child("--load", f"{folder}/log.{kind}"), flush=True)


def run_child(*arguments: str) -> str:
    """This script in a new process; what it prints."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    main()
