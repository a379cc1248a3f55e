"""The live promises, proved on a log: train on its past, serve, and replay the rest through HTTP.

Two checks, both of every placement: the API answers what the offline replay answers
(api/parity_check.py), and no answer is older than the click before it (api/freshness_check.py).
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from threadpoolctl import threadpool_limits

from api import freshness_check, parity_check
from api.parity_check import UnexpectedAnswerError
from api.serve import APP
from recsys.bundle import Bundle
from recsys.cli import columns_of, progress_bars
from recsys.config import load_config
from recsys.evaluation.split import Split, split
from recsys.events import InputError
from recsys.logs import load_log
from recsys.registry import Registry
from recsys.training import train

STOP_TIMEOUT = 20.0  # seconds for a server to end

# Started from here rather than by a shell, so that it ends with this process, however that ends.
SERVER = """
import os, sys
from pathlib import Path
from api.serve import serve
from recsys.embedded import end_with_parent
end_with_parent(int(sys.argv[2]))
sys.exit(serve(Path(sys.argv[1]), port=0, app=sys.argv[3], fresh=True))
"""


class CheckError(RuntimeError):
    """The check could not be carried out."""


@contextlib.contextmanager
def serving(data_dir: Path, app: str = APP, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server on a free port, with two workers and a namespace of its own; its address.

    more: variables of its environment.
    """
    variables = {
        "RECSYS_NAMESPACE": f"check-{secrets.token_hex(6)}",
        # A busy machine is not what is checked; in production a slow Redis means a lower tier.
        "RECSYS_STORE_TIMEOUT": "10",
        "RECSYS_MAX_WAIT": "60",
        # Sessions of days are replayed in seconds.
        "RECSYS_MAX_VELOCITY": "1e9",
        "RECSYS_MAX_REPETITION": "1000000000",
        "RECSYS_MAX_ALIKE": "1000000000",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(data_dir), str(os.getpid()), app],
        env={**os.environ, **variables, **(more or {})},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("Serving on "):
                raise CheckError("the server did not start; see above")
            yield line.split()[2]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def prove(bundle: Bundle, parts: Split, lists: int, pairs: int, connections: int) -> dict[str, Any]:
    """Serve a bundle trained on one part of a log and check it with the other.

    lists: of each placement, compared with the replay, at most. pairs: of a click and a list, in
    all. Returns plain JSON values. Raises CheckError, UnexpectedAnswerError.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-check-") as name:
        Registry(Path(name) / "bundles").publish(bundle)
        with serving(Path(name)) as address, progress_bars() as bar:
            frame = parts.test.frame.head(lists)
            parity = parity_check.check(address, bundle, frame, progress=bar)
            fresh = asyncio.run(
                freshness_check.check(address, pairs, connections, config=bundle.config)
            )
    return {
        "bundle": bundle.version,
        "ranker": bundle.facts.ranker,
        "counts": bundle.facts.counts,
        "cut": parts.notes[0],
        "parity": asdict(parity),
        "read_your_clicks": fresh,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the result as JSON; 0 when all is well, 1 when something differs, 2 for wrong input."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        epilog="example: python -m api.live_check clicks.parquet --holdout 1d",
    )
    parser.add_argument("log", nargs="+", help="log files, folders or globs")
    parser.add_argument("--columns", default="", help="other names: session_id=visit,item_id=sku")
    parser.add_argument("--config", type=Path, help="recsys.toml")
    parser.add_argument("--holdout", default="1d", help="what is replayed: 36h, 1d, 2w or 0.1")
    parser.add_argument("--lists", type=int, default=2000, help="compared, of each placement")
    parser.add_argument("--pairs", type=int, default=20_000, help="of a click and a list, in all")
    parser.add_argument("--connections", type=int, default=64)
    asked = parser.parse_args(argv)
    try:
        config = load_config(asked.config)
        log = load_log(asked.log, columns=columns_of(asked.columns), config=config.events)
        parts = split(log, asked.holdout)
        # Numpy's own threads would fight with the server's workers for the cores.
        with threadpool_limits(1):
            with progress_bars() as bar:
                bundle = train(parts.train, config, bar)
            result = prove(bundle, parts, asked.lists, asked.pairs, asked.connections)
    except (InputError, CheckError, UnexpectedAnswerError) as error:
        print(error, file=sys.stderr)
        return 2
    print(orjson.dumps(result).decode(), flush=True)
    return 1 if result["parity"]["differences"] or result["read_your_clicks"]["stale"] else 0


if __name__ == "__main__":
    sys.exit(main())
