"""Mirror: the store's aggregates in the memory of a process, as they were at its last look."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import orjson

from recsys.aggregates import NEVER, Aggregates, Doubles, definition, oldest, read
from recsys.config import Aggregate, Config
from recsys.snapshot import EMPTY, Snapshot
from recsys.store import Changes, Chunk, Store

FOLLOWED = 1_000  # changes taken at a time
ROWS = 250  # of a snapshot told at a time
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
        for place, fields in changes.entries:
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                id_, cell = name.decode().split(":")
                for aggregate in self.ids.get(id_, ()):
                    row = self._row(aggregate, value[16:])
                    table = self.state.tables[aggregate.name]
                    table.first[row, int(cell)], table.second[row, int(cell)] = _doubles(value[:16])
                    self.state.changed(aggregate, np.array([row], np.int32))
            self.place = place.decode()
        return True

    def own(self, rows: dict[str, bytes]) -> dict[str, float]:
        """By name, the values of a visitor's own aggregates, as `Aggregates.own` gives them.

        rows: what the store's read gave.
        """
        values = {}
        for id_, sharing in self.ids.items():
            for aggregate in sharing:
                if aggregate.key in ("session", "user"):
                    row = rows.get(id_) or NOTHING * self.state.tables[aggregate.name].cells
                    cells = _doubles(row).reshape(-1, 2)
                    first, second = cells[None, :, 0], cells[None, :, 1]
                    values[aggregate.name] = float(
                        read(aggregate, first, second, self.state.moment, ONLY)[0]
                    )
        return values

    async def catch_up(self, store: Store) -> bool:
        """Take over all that changed so far; False where all must be read anew.

        Raises StoreUnavailable.
        """
        while True:
            changes = await store.follow(self.place, FOLLOWED)
            if not self.apply(changes):
                return False
            if len(changes.entries) < FOLLOWED:
                return True

    async def sweep(self, store: Store) -> None:
        """Have the store forget some of what counts no longer, and go on there next time.

        Raises StoreUnavailable.
        """
        if not self.ids:
            return
        number, cursor = self._swept
        id_, (aggregate, *_) = list(self.ids.items())[number % len(self.ids)]
        cursor = await store.sweep(id_, cursor, oldest(aggregate, self.state.moment))
        self._swept = (number, cursor) if cursor != "0" else (number + 1, "0")

    def _set(self, id_: str, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        for key, row in pairs:
            for aggregate in self.ids[id_]:
                number = self._row(aggregate, key)
                table = self.state.tables[aggregate.name]
                cells = _doubles(row).reshape(-1, 2)
                table.first[number], table.second[number] = cells[:, 0], cells[:, 1]

    def _row(self, aggregate: Aggregate, key: bytes) -> int:
        """The row of a key, made where there is none."""
        state, table = self.state, self.state.tables[aggregate.name]
        if aggregate.key == "pair":
            length = int.from_bytes(key[:2], "big")
            start, end = key[2 : 2 + length], key[2 + length :]
            numbers = [state.number("item", name.decode()) for name in (start, end)]
            row = state.steps[aggregate.name].link(*numbers)
        else:
            row = state.number(aggregate.key, key.decode())
        table.reserve(row + 1)
        return row


async def mirrored(
    store: Store,
    config: Config,
    base: Snapshot = EMPTY,
    *,
    declare: bool = True,
    everything: bool = False,
) -> Mirror:
    """What the store knows of a configuration's aggregates.

    base: what they begin with. declare: have the store keep these and no others first. everything:
    also those of users and sessions. Raises StoreUnavailable.
    """
    ids: dict[str, list[Aggregate]] = {}
    definitions: dict[str, bytes] = {}
    numbers: dict[str, int] = {}
    for number, aggregate in enumerate(config.aggregate):
        found = definition(aggregate, config, base.digest(number), base.moment)
        definitions[found["id"]] = orjson.dumps(found)
        numbers.setdefault(found["id"], number)
        ids.setdefault(found["id"], []).append(aggregate)
    seen = await store.seen()
    if declare or not seen.epoch:  # or a store that has lost its data
        await store.declare(list(definitions.values()))
        for id_, number in numbers.items():
            await _begin(store, id_, list(base.rows(number)), base.moment)
        seen = await store.seen()
    mirror = Mirror(Aggregates(config.aggregate), ids, seen.epoch, seen.place)
    mirror.state.moment = seen.moment
    for id_, (aggregate, *_) in ids.items():
        if everything or aggregate.key in ("item", "pair"):
            async for pairs in store.rows(id_):
                mirror._set(id_, pairs)
    if await mirror.catch_up(store):
        return mirror
    return await mirrored(store, config, base, declare=False, everything=everything)


async def _begin(store: Store, id_: str, rows: list[tuple[bytes, bytes]], moment: float) -> None:
    """Have an aggregate begin with rows of a snapshot, once; several may do so together."""
    number = 0
    while 0 <= ROWS * number < len(rows):
        part = rows[ROWS * number : ROWS * (number + 1)]
        last = ROWS * (number + 1) >= len(rows)
        number = await store.fill(Chunk(id_, "base", number, last, moment, part))


def _doubles(cells: bytes) -> Doubles:
    return np.frombuffer(cells, dtype="<f8")
