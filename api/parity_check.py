"""Parity, checked through HTTP: what the API answers is what the offline replay of the log answers.

Each event of a log is posted and a list of every placement asked for, in the log's order. The same
lists are made offline, from the log alone: ids, their order, scores, reasons, tier and session
version must be equal. Where the log has prices and categories, the catalogue is told of them first.
"""

import argparse
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import polars as pl
from rich.progress import Progress

from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.evaluation.replay import Moment, replay
from recsys.events import TERMS, InputError
from recsys.filters import Beyond, Masks
from recsys.items import Item
from recsys.logs import load_log
from recsys.recommend import Recommendation, Request, filled, placement_of, recommend
from recsys.registry import Registry
from recsys.side_index import SideIndex
from recsys.snapshot import told_after

TOLERANCE = 1e-6  # of a score
TIMEOUT = 30.0  # seconds for one answer


class UnexpectedAnswerError(RuntimeError):
    """The server answered with an error, or not at all."""


@dataclass(frozen=True)
class Parity:
    """lists: compared. differences: lists that were not equal. example: the first of these.

    placements: the lists of each, and how many of them were not equal. tiers: lists of each tier.
    """

    lists: int
    differences: int
    example: str | None
    placements: dict[str, dict[str, int]]
    tiers: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class _Pair:
    """One list on both sides. online: the API's answer."""

    moment: Moment
    request: Request
    online: dict[str, Any]
    offline: Recommendation


def check(
    base_url: str,
    bundle: Bundle,
    frame: pl.DataFrame,
    *,
    n: int = 20,
    placements: Sequence[str] = (),
    diversity: float | None = None,
    forget: int | None = None,
    progress: Progress | None = None,
) -> Parity:
    """Replay a log through a running API and offline, and compare every list.

    bundle: the one that the API serves. frame: log columns in time order, later than the bundle's
    cut-off. The sessions get names of this run; users keep theirs, and aggregates count everybody,
    so the server needs a namespace in which nobody has live events yet. placements: those whose
    lists are compared at each event, empty for all. diversity: asked for in each. forget: a row
    that the offline side is not told of, to see that the check can fail.
    Raises UnexpectedAnswerError, UnknownPlacementError.
    """
    names = list(placements) or list(bundle.config.placements)
    for name in names:
        placement_of(bundle.config, name)
    requests = [Request(n=n, placement=name, diversity=diversity) for name in names]
    run = f"parity-{time.time_ns():x}-"
    frame = frame.with_columns(session_id=pl.lit(run) + pl.col("session_id"))
    start = time.perf_counter()
    lists, flaws, tiers = Counter[str](), Counter[str](), Counter[str]()
    example = None
    task = progress.add_task("parity", total=len(frame) * len(names)) if progress else None
    for pair in _pairs(base_url, bundle, frame, requests, forget):
        lists[pair.request.placement] += 1
        tiers[pair.offline.tier] += 1
        if flaw := _flaw(pair):
            flaws[pair.request.placement] += 1
            example = example or flaw
        if progress and task is not None:
            progress.update(task, completed=lists.total())
    return Parity(
        lists=lists.total(),
        differences=flaws.total(),
        example=example,
        placements={k: {"lists": lists[k], "differences": flaws[k]} for k in names},
        tiers=dict(tiers),
        seconds=round(time.perf_counter() - start, 1),
    )


def _pairs(
    base_url: str,
    bundle: Bundle,
    frame: pl.DataFrame,
    requests: list[Request],
    forget: int | None,
) -> Iterator[_Pair]:
    address = urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    told = frame.with_row_index("at").filter(pl.col("at") != (-1 if forget is None else forget))
    told = told.drop("at")
    catalog = Catalog()
    masks, side = Masks(catalog), SideIndex(catalog)
    offline = replay(told, fold=told_after(bundle.snapshot, bundle.config, told))
    # Two connections mostly end in two workers, so nothing kept within a worker can help.
    with (
        closing(HTTPConnection(host, port, timeout=TIMEOUT)) as clicks,
        closing(HTTPConnection(host, port, timeout=TIMEOUT)) as lists,
    ):
        for at, event in enumerate(frame.iter_rows(named=True)):
            _name_terms(clicks, catalog, event)
            given = {k: v for k, v in event.items() if v is not None and k not in TERMS}
            recorded = _post(clicks, "/v1/events", {"events": [given]})
            if not recorded["accepted"]:
                raise UnexpectedAnswerError(f"row {at} was not accepted: {recorded}")
            if at == forget:
                continue
            moment = next(offline)
            session = moment.session(bundle.config)
            for request in requests:
                ask = {
                    "session_id": event["session_id"],
                    "user_id": moment.user_id,
                    "n": request.n,
                    "placement": request.placement,
                    "diversity": request.diversity,
                }
                online = _post(lists, "/v1/recommendations", ask)
                request = replace(
                    request,
                    allowed=masks.of(bundle.items, None),
                    beyond=Beyond(masks),
                    unseen=side.of(bundle),
                )
                answer = recommend(bundle, session, request)
                answer = filled(answer, bundle, session, request, masks)
                yield _Pair(moment, request, online, answer)


def _name_terms(connection: HTTPConnection, catalog: Catalog, event: dict[str, Any]) -> None:
    """Have the catalogues on both sides say of an event's item what the log says."""
    terms = {name: event.get(name) for name in TERMS}
    item = Item(category=tuple(terms["category"] or ()), price=terms["price"])
    if event["item_id"] is None or item == (catalog.get(event["item_id"]) or Item()):
        return
    outcome = _post(connection, "/v1/items", [{"item_id": event["item_id"], **terms}])
    if not outcome["accepted"]:
        raise UnexpectedAnswerError(f"{event['item_id']} cannot have {terms}: {outcome}")
    catalog.upsert(event["item_id"], item)


def _readable(sock: socket.socket) -> bool:
    """Whether there is something to read, or the end of it. Not select(): it knows no descriptor
    beyond 1023."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _post(connection: HTTPConnection, path: str, payload: Any) -> Any:
    if connection.sock is not None and _readable(connection.sock):
        # Something to read before anything was asked: the server ended the idle connection, as it
        # does after seconds; the request opens another.
        connection.close()
    try:
        connection.request(
            "POST", path, orjson.dumps(payload), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise UnexpectedAnswerError(f"POST {path}: no answer: {error}") from error
    if response.status >= 300:
        raise UnexpectedAnswerError(f"POST {path}: {response.status} {body.decode()}")
    return orjson.loads(body)


def _flaw(pair: _Pair) -> str | None:
    """What differs between the two sides; ``None`` when nothing does."""
    online, offline = pair.online, pair.offline
    facts = {
        "bundle": (online["bundle"], offline.bundle),
        "session version": (online["session_version"], pair.moment.version),
        "tier": (online["tier"], offline.tier),
        "items": ([item["item_id"] for item in online["items"]], offline.item_ids),
        "reasons": ([item["reason"] for item in online["items"]], offline.reasons),
    }
    event = pair.moment.event
    what = f"{event.type} of {event.item_id} in {event.session_id}"
    where = f"row {pair.moment.row} ({what}), placement {pair.request.placement}"
    for name, (there, here) in facts.items():
        if there != here:
            return f"{where}: {name}: the API says {there}, the replay {here}"
    scores = [item["score"] for item in online["items"]]
    for rank, (there, here) in enumerate(zip(scores, offline.scores, strict=True), 1):
        if not abs(there - here) <= TOLERANCE:
            return f"{where}: score at rank {rank}: the API says {there}, the replay {here}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the result as JSON; 0 without a difference, 1 with one, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("log", help="events later than the bundle's cut-off")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="that of the server")
    parser.add_argument(
        "--placement",
        action="append",
        default=[],
        metavar="NAME",
        help="compare lists of this placement, may be repeated; default: every one of the bundle",
    )
    parser.add_argument(
        "--diversity", type=float, metavar="0..1", help="of every list; default: the placement's"
    )
    parser.add_argument(
        "--lists", type=int, default=2000, help="lists of each placement, at most: one an event"
    )
    parser.add_argument(
        "--forget", type=int, metavar="ROW", help="untold to the offline side: the check must fail"
    )
    asked = parser.parse_args(argv)
    try:
        bundle = Registry(asked.data_dir / "bundles").load()
        log = load_log([asked.log], config=bundle.config.events)
        result = check(
            asked.base_url,
            bundle,
            log.frame.head(asked.lists),
            placements=asked.placement,
            diversity=asked.diversity,
            forget=asked.forget,
        )
    except (InputError, UnexpectedAnswerError) as error:
        print(error, file=sys.stderr)
        return 2
    print(orjson.dumps(asdict(result)).decode())
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
