"""Read your clicks, checked through HTTP: click, recommend, and the answer must show the click.

Each pair puts the item that tops the visitor's list into the cart. The next list of that session
must be of the version acknowledged or a later one, must not hold the item (the default placement
leaves out what is in the cart), and must come from the session.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

PAIRS_PER_SESSION = 10


LIVE_TIERS = ("ranker", "session")  # of lists that knew the session


class UnexpectedAnswerError(RuntimeError):
    """The server answered with an error, or not at all."""


@dataclass
class Tally:
    checked: int = 0
    stale: int = 0
    example: str | None = None  # of a stale answer


class _Connection:
    """HTTP/1.1 on one kept-alive connection: all the client this check needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection(host, port))

    async def post(self, path: str, payload: Any) -> Any:
        body = orjson.dumps(payload)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        answer = await self._reader.readexactly(length)
        status = int(lines[0].split()[1])
        if status >= 300:
            raise UnexpectedAnswerError(f"POST {path}: {status} {answer.decode()}")
        return orjson.loads(answer)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def check(
    base_url: str, pairs: int = 20_000, connections: int = 64, break_order: bool = False
) -> dict[str, Any]:
    """Run click -> recommend pairs; returns checked, stale, pairs_per_second, stale_example.

    break_order: ask before clicking, to see that the check can fail. Raises UnexpectedAnswerError.
    """
    address = urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    lanes = max(1, connections // 2)
    tally = Tally()
    run = f"fresh-{time.time_ns():x}"
    start = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for lane in range(lanes):
                count = pairs // lanes + (lane < pairs % lanes)
                group.create_task(_lane(host, port, f"{run}-{lane}", count, break_order, tally))
    except ExceptionGroup as failures:
        cause = failures.exceptions[0]
        if isinstance(cause, OSError | asyncio.IncompleteReadError):
            raise UnexpectedAnswerError(f"{base_url} does not answer: {cause}") from cause
        raise cause from None
    seconds = time.perf_counter() - start
    return {
        "checked": tally.checked,
        "stale": tally.stale,
        "pairs_per_second": round(tally.checked / seconds, 1),
        "connections": 2 * lanes,
        "stale_example": tally.example,
    }


async def _lane(
    host: str, port: int, name: str, pairs: int, break_order: bool, tally: Tally
) -> None:
    """Pairs of one visitor after the other: clicks on one connection, lists on another.

    Two connections mostly end in two workers, so nothing kept within a worker can help.
    """
    clicks = await _Connection.open(host, port)
    lists = await _Connection.open(host, port)
    for pair in range(pairs):
        session = f"{name}-{pair // PAIRS_PER_SESSION}"
        ask = {"session_id": session, "n": 20}
        if pair % PAIRS_PER_SESSION == 0:
            shown = await lists.post("/v1/recommendations", ask)
        if not shown["items"]:
            raise UnexpectedAnswerError("the bundle has too few items for this check")
        item = shown["items"][0]["item_id"]
        event = {"type": "cart", "session_id": session, "item_id": item}
        if break_order:
            shown = await lists.post("/v1/recommendations", ask)
        recorded = await clicks.post("/v1/events", {"events": [event]})
        if not break_order:
            shown = await lists.post("/v1/recommendations", ask)
        _judge(shown, item, recorded["sessions"][session], tally)
    await clicks.close()
    await lists.close()


def _judge(shown: dict[str, Any], item: str, version: int, tally: Tally) -> None:
    tally.checked += 1
    held = any(entry["item_id"] == item for entry in shown["items"])
    if shown["session_version"] >= version and not held and shown["tier"] in LIVE_TIERS:
        return
    tally.stale += 1
    presence = "with" if held else "without"
    tally.example = tally.example or (
        f"version {version} was acknowledged for a cart with {item!r}; then came a list of "
        f"version {shown['session_version']}, tier {shown['tier']}, {presence} the item"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the result as JSON; 0 when nothing was stale, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--break-order", action="store_true", help="ask before clicking: the check must fail"
    )
    asked = parser.parse_args(argv)
    try:
        result = asyncio.run(
            check(asked.base_url, asked.pairs, asked.connections, asked.break_order)
        )
    except UnexpectedAnswerError as error:
        print(error, file=sys.stderr)
        return 1
    print(orjson.dumps(result).decode())
    return 1 if result["stale"] else 0
