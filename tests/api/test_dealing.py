"""Each worker has as many connections as the others."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from api import dealing
from api.dealing import Dealer, Seat

pytestmark = pytest.mark.anyio

OWN, OTHER = 0, 1


class Reluctant(socket.socket):
    """A listener that has too many files open at first."""

    refused = False

    def accept(self) -> Any:
        if not self.refused:
            self.refused = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def seats_of(workers: int, kind: type[socket.socket] = socket.socket) -> Iterator[list[Seat]]:
    with contextlib.ExitStack() as stack:
        seats = []
        for _ in range(workers):
            listener = kind(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener.bind(("127.0.0.1", 0))
            listener.listen(100)
            seats.append(Seat.at(listener, workers))
            stack.callback(seats[-1].close)
        yield seats


@pytest.fixture
def seats() -> Iterator[list[Seat]]:
    """Those of two workers."""
    yield from seats_of(2)


class Worker:
    """One whose connections say whose they are."""

    def __init__(self, seats: list[Seat], own: int) -> None:
        self.transports = transports = list[asyncio.WriteTransport]()

        class Named(asyncio.Protocol):
            def __init__(self, lost: Callable[[], None]) -> None:
                self.lost = lost

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.WriteTransport)
                transport.write(str(own).encode())
                transports.append(transport)

            def connection_lost(self, _error: Exception | None) -> None:
                self.lost()

        self.dealer, self.seat = Dealer(seats, own, Named), seats[own]

    async def has(self, connections: int) -> None:
        async with asyncio.timeout(20):
            while self.seat.has.value != connections:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def worker(seats: list[Seat], own: int) -> AsyncIterator[Worker]:
    made = Worker(seats, own)
    try:
        yield made
    finally:
        await made.dealer.close()
        for transport in made.transports:
            transport.close()
        await made.has(dealing.AWAY)


class Clients(list[asyncio.StreamReader]):
    """Connections that are kept until they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[asyncio.StreamWriter] = []

    async def come(self, number: int, to: Seat) -> list[int]:
        """So many more, and whose they are."""
        await self.wait(number, to)
        return await self.whose(self[-number:])

    async def wait(self, number: int, to: Seat) -> None:
        """So many more."""
        for _ in range(number):
            reader, writer = await asyncio.open_connection(*to.listener.getsockname())
            self.append(reader)
            self.writers.append(writer)

    async def whose(self, some: list[asyncio.StreamReader]) -> list[int]:
        return [int(await reader.read(1)) for reader in some]

    def leave(self, *which: int) -> None:
        for k in which or range(len(self)):
            self.writers[k].close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    clients.leave()


async def test_connections_go_to_who_has_the_fewest(seats: list[Seat], clients: Clients) -> None:
    """Whoever gets them from the kernel, and whether they come at once or one by one."""
    async with worker(seats, OWN) as own, worker(seats, OTHER) as other:
        await asyncio.gather(
            *(clients.wait(1, own.seat) for _ in range(15)),
            *(clients.wait(1, other.seat) for _ in range(5)),
        )
        assert sorted(await clients.whose(clients)) == [OWN] * 10 + [OTHER] * 10
        for number in range(21, 41):
            await clients.come(1, other.seat)
            both = own.seat.has.value, other.seat.has.value
            assert sum(both) == number
            assert abs(both[0] - both[1]) <= 1
        clients.leave()
        await own.has(0)
        await other.has(0)


async def test_one_at_a_time_stays_where_it_is(seats: list[Seat], clients: Clients) -> None:
    """Handing over costs, and is for those that are kept."""
    async with worker(seats, OWN) as own, worker(seats, OTHER):
        for _ in range(5):
            assert await clients.come(1, own.seat) == [OWN]
            clients.leave()
            await own.has(0)


async def test_who_was_left_gets_the_next_ones(seats: list[Seat], clients: Clients) -> None:
    """Connections that end are made up for by later ones."""
    async with worker(seats, OWN) as own, worker(seats, OTHER) as other:
        found = await clients.come(20, own.seat)
        clients.leave(*(k for k, worker in enumerate(found) if worker == OTHER))
        await other.has(0)
        assert await clients.come(10, own.seat) == [OTHER] * 10


async def test_a_connection_waits_for_the_next_worker(seats: list[Seat], clients: Clients) -> None:
    """Those handed to a worker that is gone are the next one's, which has no others."""
    async with worker(seats, OWN) as own:
        seats[OTHER].has.value = 2  # it was killed, and nobody has noticed
        await clients.wait(6, own.seat)
        await own.has(4)
        seats[OTHER].vacate()  # it is noticed
        await clients.wait(1, own.seat)
        await own.has(5)
        async with worker(seats, OTHER) as other:
            await other.has(2)
            assert sorted(await clients.whose(clients)) == [OWN] * 5 + [OTHER] * 2
            assert await clients.come(2, own.seat) == [OTHER] * 2


async def test_what_cannot_be_handed_on_stays(seats: list[Seat], clients: Clients) -> None:
    """As many as fit wait for a worker that takes none; the rest is answered by who has them."""
    seats[OTHER].way_in.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    seats[OTHER].has.value = 0  # it is stopped
    async with worker(seats, OWN) as own:
        await clients.wait(60, own.seat)
        async with asyncio.timeout(20):
            while own.seat.has.value + own.seat.handed[OTHER] < 60:
                await asyncio.sleep(0.01)
        kept = own.seat.has.value
        assert 30 < kept < 60
        async with worker(seats, OTHER) as other:
            await other.has(60 - kept)
            found = await clients.whose(clients)
            assert sorted(found) == [OWN] * kept + [OTHER] * (60 - kept)


async def test_a_worker_with_too_many_files_open_tries_again(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, and does not try at each turn of its loop."""
    monkeypatch.setattr(dealing, "RETRY", 0.05)
    for seats in seats_of(1, Reluctant):
        async with worker(seats, OWN) as own:
            assert await clients.come(1, own.seat) == [OWN]
    (record,) = caplog.records
    assert "no connection can be taken in for 0.05 s: " in record.getMessage()


async def test_what_there_is_no_room_for_waits(
    seats: list[Seat], clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with too many files open leaves what it is handed where it is, and gets no more."""
    monkeypatch.setattr(dealing, "RETRY", 0.2)
    full, dup = [True], os.dup

    def too_many(file: int) -> int:
        if full[0]:
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(file)

    monkeypatch.setattr(os, "dup", too_many)
    async with worker(seats, OWN) as own, worker(seats, OTHER) as other:
        await clients.wait(2, own.seat)  # the second one is handed on
        await own.has(1)
        await other.has(dealing.AWAY)
        await clients.wait(5, own.seat)
        await own.has(6)
        full[0] = False
        await other.has(1)
        assert sorted(await clients.whose(clients)) == [OWN] * 6 + [OTHER]


async def test_those_that_begin_have_begun_when_it_is_closed(
    seats: list[Seat], clients: Clients
) -> None:
    """Else nobody would end them: what stops would wait for them in vain."""
    one = Worker(seats[:1], OWN)
    await clients.wait(20, one.seat)
    while not one.seat.has.value:
        await asyncio.sleep(0)
    await one.dealer.close()
    assert one.seat.has.value == dealing.AWAY + len(one.transports) > dealing.AWAY
    for transport in one.transports:
        transport.close()
    await one.has(dealing.AWAY)
