"""Mirror: the store's aggregates in the memory of a process, as they were at its last look."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import orjson

from recsys.aggregates import (
    NEVER,
    Aggregates,
    Doubles,
    Rows,
    definition,
    for_everybody,
    oldest,
    ranking_by,
    read,
)
from recsys.config import Aggregate, Config
from recsys.session import Session
from recsys.snapshot import EMPTY, Snapshot
from recsys.store import Changes, Chunk, Live, Store

FOLLOWED = 1_000  # changes that come along with a visitor at most
AT_ONCE = 200  # else: others wait for Redis meanwhile
ROWS = 250  # of a snapshot told at a time
SWEPT = 200  # rows looked at at a time: others wait for Redis meanwhile
ONLY = np.zeros(1, dtype=np.int32)  # the row of a table of one
NOTHING = struct.pack("<dd", 0.0, NEVER)  # an empty cell


@dataclass
class Mirror:
    """What the store knew at a place in its stream of changes.

    epoch: of the store's rows; with another one all has to be read again. ids: the aggregates that
    share one statistic in the store.
    """

    state: Aggregates
    ids: dict[str, list[Aggregate]]
    epoch: str
    place: str
    _swept: tuple[int, str] = (0, "0")  # which of the ids, and a cursor in its rows

    def apply(self, changes: Changes) -> bool:
        """Take over what changed; False where that is no longer possible and all must be read."""
        if changes.epoch != self.epoch or changes.cut:
            return False
        self.state.moment = max(self.state.moment, changes.moment)
        latest: dict[bytes, dict[bytes, bytes]] = {}  # by aggregate and cell, by key
        for _, fields in changes.entries:
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                latest.setdefault(name, {})[value[16:]] = value[:16]
        for name, cells in latest.items():
            id_, cell = name.decode().split(":")
            for aggregate in self.ids.get(id_, ()):
                rows, table = self._rows(aggregate, [*cells]), self.state.tables[aggregate.name]
                told = _doubles(b"".join(cells.values())).reshape(-1, 2)
                table.first[rows, int(cell)], table.second[rows, int(cell)] = told[:, 0], told[:, 1]
                self.state.changed(aggregate, rows)
        if changes.entries:
            self.place = changes.entries[-1][0].decode()
        return True

    def own(self, rows: dict[str, bytes]) -> dict[str, float]:
        """By name, the values of a visitor's own aggregates, as `Aggregates.own` gives them.

        rows: what the store's read gave.
        """
        values = {}
        for id_, sharing in self.ids.items():
            for aggregate in sharing:
                if not for_everybody(aggregate):
                    row = rows.get(id_) or NOTHING * self.state.tables[aggregate.name].cells
                    cells = _doubles(row).reshape(-1, 2)
                    first, second = cells[None, :, 0], cells[None, :, 1]
                    values[aggregate.name] = float(
                        read(aggregate, first, second, self.state.moment, ONLY)[0]
                    )
        return values

    async def catch_up(self, store: Store) -> int | None:
        """Take over all that changed so far and say how much; None where all must be read anew.

        Raises StoreUnavailable.
        """
        taken = 0
        while True:
            changes = await store.follow(self.place, AT_ONCE)
            if not self.apply(changes):
                return None
            taken += len(changes.entries)
            if len(changes.entries) < AT_ONCE:
                return taken

    async def sweep(self, store: Store) -> None:
        """Have the store forget some of what counts no longer, and go on there next time.

        Raises StoreUnavailable.
        """
        if not self.ids:
            return
        number, cursor = self._swept
        id_, (aggregate, *_) = list(self.ids.items())[number % len(self.ids)]
        cursor = await store.sweep(id_, cursor, oldest(aggregate, self.state.moment), SWEPT)
        self._swept = (number, cursor) if cursor != "0" else (number + 1, "0")

    def _set(self, id_: str, pairs: list[tuple[bytes, bytes]]) -> None:
        keys, cells = [key for key, _ in pairs], _doubles(b"".join(row for _, row in pairs))
        for aggregate in self.ids[id_]:
            rows = self._rows(aggregate, keys)
            table = self.state.tables[aggregate.name]
            told = cells.reshape(len(keys), table.cells, 2)
            table.first[rows], table.second[rows] = told[..., 0], told[..., 1]

    def _rows(self, aggregate: Aggregate, keys: list[bytes]) -> Rows:
        """The rows of keys, made where there are none."""
        state, table = self.state, self.state.tables[aggregate.name]
        if aggregate.key == "pair":
            # The length of the first item, and both.
            ends = [2 + int.from_bytes(key[:2], "big") for key in keys]
            starts = [key[2:end] for key, end in zip(keys, ends, strict=True)]
            targets = [key[end:] for key, end in zip(keys, ends, strict=True)]
            numbers = [self._numbers("item", names) for names in (starts, targets)]
            rows = state.steps[aggregate.name].link_all(*numbers)
        else:
            rows = self._numbers(aggregate.key, keys)
        if len(rows):
            table.reserve(int(rows.max()) + 1)
        return rows

    def _numbers(self, key: str, names: list[bytes]) -> Rows:
        number = self.state.number
        return np.array([number(key, name.decode()) for name in names], np.int32)


async def mirrored(
    store: Store,
    config: Config,
    base: Snapshot = EMPTY,
    *,
    declare: bool = True,
    everything: bool = False,
    beside: tuple[tuple[Config, Snapshot], ...] = (),
) -> Mirror:
    """What the store knows of a configuration's aggregates.

    base: what they begin with. declare: have the store keep these and no others first. everything:
    also those of users and sessions. beside: configurations, and what theirs begin with, whose
    aggregates are kept too. Raises StoreUnavailable.
    """
    ids: dict[str, list[Aggregate]] = {}
    for found, number in _definitions(config, base):
        ids.setdefault(found["id"], []).append(config.aggregate[number])
    seen = await store.seen()
    if declare or not seen.epoch:  # or a store that has lost its data
        await declared(store, (config, base), *beside)
        seen = await store.seen()
    mirror = Mirror(Aggregates(config.aggregate), ids, seen.epoch, seen.place)
    mirror.state.moment = seen.moment
    for id_, (aggregate, *_) in ids.items():
        if everything or for_everybody(aggregate):
            async for pairs in store.rows(id_):
                mirror._set(id_, pairs)
    if await mirror.catch_up(store) is not None:
        return mirror
    return await mirrored(store, config, base, declare=False, everything=everything, beside=beside)


async def declared(store: Store, *kept: tuple[Config, Snapshot]) -> None:
    """Have the store keep the aggregates of configurations, and no others.

    kept: configurations, and what theirs begin with. Raises StoreUnavailable.
    """
    definitions: dict[str, bytes] = {}
    bases: dict[str, tuple[Snapshot, int]] = {}
    for config, base in kept:
        for found, number in _definitions(config, base):
            definitions[found["id"]] = orjson.dumps(found)
            bases.setdefault(found["id"], (base, number))
    await store.declare(list(definitions.values()))
    for id_, (base, number) in bases.items():
        await _begin(store, id_, base, number)


def _definitions(config: Config, base: Snapshot) -> Iterator[tuple[dict[str, Any], int]]:
    """What the stream has to know of each aggregate, and its number."""
    for number, aggregate in enumerate(config.aggregate):
        yield definition(aggregate, config, base.digest(number), base.moment), number


async def _begin(store: Store, id_: str, base: Snapshot, aggregate: int) -> None:
    """Have an aggregate begin with rows of a snapshot, once; several may do so together."""
    rows, number = base.rows(aggregate), 0
    chunks = -(-base.count(aggregate) // ROWS)
    for k in range(chunks):
        if number < 0:  # all is filled in
            return
        part = list(islice(rows, ROWS))  # no more at a time: others wait for the event loop
        if k == number:
            chunk = Chunk(id_, "base", number, k + 1 == chunks, base.moment, part)
            number = await store.fill(chunk)


def told(config: Config, mirror: Mirror | None) -> Mirror | None:
    """The mirror, if a configuration's ranker is told of aggregates."""
    return mirror if ranking_by(config) else None


def session_of(
    live: Live,
    config: Config,
    mirror: Mirror | None,
    session_id: str | None,
    user_id: str | None = None,
) -> Session:
    """A visitor as a bundle is told of them. user_id: default the session's known user.

    config: of the bundle. mirror: where its ranker is told of aggregates.
    """
    return Session.from_events(
        live.events,
        live.user_events,
        session_id=session_id,
        user_id=user_id or live.user_id,
        version=live.version,
        config=config.session,
        types=config.events,
        aggregates=mirror.state if mirror else None,
        own=mirror.own(live.own) if mirror else None,
    )


def _doubles(cells: bytes) -> Doubles:
    return np.frombuffer(cells, dtype="<f8")
