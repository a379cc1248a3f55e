"""Read your clicks, checked through HTTP: click, recommend, and the answer must show the click.

Each pair puts the first item of the visitor's list that the session has not touched into the cart.
The next list of that session must be of the version acknowledged or a later one, must come from the
session, must not be the list from before, scores included, and must not hold the item where the
placement leaves out what is in the cart. Visitors take turns in the placements.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from api.load import request
from api.parity_check import UnexpectedAnswerError
from recsys.config import Config
from recsys.events import InputError
from recsys.recommend import placement_of
from recsys.registry import Registry

PAIRS_PER_SESSION = 10
SHOWN = 20  # items of a list: more than a session touches

LIVE_TIERS = ("ranker", "session")  # of lists that knew the session


@dataclass
class Tally:
    """What the pairs of one placement came to. example: of a stale answer."""

    checked: int = 0
    stale: int = 0
    example: str | None = None
    tiers: Counter[str] = field(default_factory=Counter)


class Connection:
    """HTTP/1.1 on one kept-alive connection: all the client this check needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        return cls(*await asyncio.open_connection(host, port))

    async def post(self, path: str, payload: Any) -> Any:
        return await self.call("POST", path, orjson.dumps(payload))

    async def call(
        self, method: str, path: str, body: bytes = b"", media_type: str = "application/json"
    ) -> Any:
        """The JSON of an answer, ``None`` for an empty one. Raises UnexpectedAnswerError."""
        self._writer.write(request(method, path, body, media_type))
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        lengths = (int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        length = next(lengths, 0)
        answer = await self._reader.readexactly(length)
        status = int(lines[0].split()[1])
        if status >= 300:
            raise UnexpectedAnswerError(f"{method} {path}: {status} {answer.decode()}")
        return orjson.loads(answer) if answer else None

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def check(
    base_url: str,
    pairs: int = 20_000,
    connections: int = 64,
    break_order: bool = False,
    config: Config | None = None,
    placements: Sequence[str] = (),
) -> dict[str, Any]:
    """Run click -> recommend pairs; what was found in all and by placement, as plain JSON values.

    config: that of the bundle served, for its placements and what they leave out; default: the
    placements there are from the start. placements: those that are asked for, empty for all.
    break_order: ask before clicking, to see that the check can fail. Raises UnexpectedAnswerError,
    UnknownPlacementError.
    """
    config = config or Config()
    gone = {
        name: not {"cart", "any"}.isdisjoint(placement_of(config, name).exclude)
        for name in placements or config.placements
    }
    tallies = {name: Tally() for name in gone}
    address = urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    lanes = max(1, connections // 2)
    run = f"fresh-{time.time_ns():x}"
    start = time.perf_counter()
    visits = -(-pairs // PAIRS_PER_SESSION)
    try:
        async with asyncio.TaskGroup() as group:
            for lane in range(lanes):
                turns = [
                    _Visit(
                        session=f"{run}-{visit}",
                        placement=(placement := list(gone)[visit % len(gone)]),
                        pairs=min(PAIRS_PER_SESSION, pairs - visit * PAIRS_PER_SESSION),
                        gone=gone[placement],
                        tally=tallies[placement],
                    )
                    for visit in range(lane, visits, lanes)
                ]
                group.create_task(_lane(host, port, turns, break_order))
    except ExceptionGroup as failures:
        cause = failures.exceptions[0]
        if isinstance(cause, OSError | asyncio.IncompleteReadError):
            raise UnexpectedAnswerError(f"{base_url} does not answer: {cause}") from cause
        raise cause from None
    seconds = time.perf_counter() - start
    checked = sum(tally.checked for tally in tallies.values())
    return {
        "checked": checked,
        "stale": sum(tally.stale for tally in tallies.values()),
        "pairs_per_second": round(checked / seconds, 1),
        "connections": 2 * lanes,
        "stale_example": next((t.example for t in tallies.values() if t.example), None),
        "placements": {
            name: {"checked": tally.checked, "stale": tally.stale, "tiers": dict(tally.tiers)}
            for name, tally in tallies.items()
        },
    }


@dataclass(frozen=True)
class _Visit:
    """One session's pairs. gone: its placement leaves out what is in the cart."""

    session: str
    placement: str
    pairs: int
    gone: bool
    tally: Tally


async def _lane(host: str, port: int, visits: list[_Visit], break_order: bool) -> None:
    """One visit after the other: clicks on one connection, lists on another.

    Two connections mostly end in two workers, so nothing kept within a worker can help.
    """
    clicks = await Connection.open(host, port)
    lists = await Connection.open(host, port)
    for visit in visits:
        ask = {"session_id": visit.session, "n": SHOWN, "placement": visit.placement}
        before = await lists.post("/v1/recommendations", ask)
        touched: set[str] = set()
        for _ in range(visit.pairs):
            offered = (entry["item_id"] for entry in before["items"])
            item = next((item for item in offered if item not in touched), None)
            if item is None:
                raise UnexpectedAnswerError("the bundle has too few items for this check")
            touched.add(item)
            event = {"type": "cart", "session_id": visit.session, "item_id": item}
            if break_order:
                shown = await lists.post("/v1/recommendations", ask)
            recorded = await clicks.post("/v1/events", {"events": [event]})
            if not break_order:
                shown = await lists.post("/v1/recommendations", ask)
            _judge(visit, before, shown, item, recorded["sessions"][visit.session])
            before = shown
    await clicks.close()
    await lists.close()


def _judge(
    visit: _Visit, before: dict[str, Any], shown: dict[str, Any], item: str, version: int
) -> None:
    """Count a pair. before and shown: the lists before and after the item went into the cart."""
    tally = visit.tally
    tally.checked += 1
    tally.tiers[shown["tier"]] += 1
    flaws = []
    if shown["session_version"] < version:
        flaws.append(f"is of version {shown['session_version']}")
    if shown["tier"] not in LIVE_TIERS:
        flaws.append(f"is of tier {shown['tier']}")
    if visit.gone and any(entry["item_id"] == item for entry in shown["items"]):
        flaws.append("holds the item")
    if shown["items"] == before["items"]:
        flaws.append("is the one from before, with its scores")
    if flaws:
        tally.stale += 1
        tally.example = tally.example or (
            f"placement {visit.placement}: version {version} was acknowledged for a cart with "
            f"{item!r}; the next list {', '.join(flaws)}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the result as JSON; 0 when nothing was stale, 2 for wrong input, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="that of the server, to check its bundle's placements; default: those there are from "
        "the start",
    )
    parser.add_argument(
        "--placement",
        action="append",
        default=[],
        metavar="NAME",
        help="check this placement, may be repeated; default: all in turn",
    )
    parser.add_argument(
        "--break-order", action="store_true", help="ask before clicking: the check must fail"
    )
    asked = parser.parse_args(argv)
    try:
        config = Registry(asked.data_dir / "bundles").load().config if asked.data_dir else None
        result = asyncio.run(
            check(
                asked.base_url,
                asked.pairs,
                asked.connections,
                asked.break_order,
                config,
                asked.placement,
            )
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except UnexpectedAnswerError as error:
        print(error, file=sys.stderr)
        return 1
    print(orjson.dumps(result).decode())
    return 1 if result["stale"] else 0
