"""Dealing: each worker has as many connections as the others.

The kernel gives one to a listener by a hash of its addresses, which is even only on average: of 64
that clients keep, one of two workers has more than 36 in every fourth case, and a quarter more to
do than the other for as long as they are kept. So a worker hands what comes to it to the one that
has the fewest, where that is another.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from ctypes import c_longlong
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

logger = logging.getLogger("recsys.serve")

RETRY = 1.0  # seconds until connections are taken in again by a worker that could not
AT_A_TIME = 100  # connections taken in before the requests of others are looked at again
AWAY = 1 << 40  # connections that one who takes none is said to have, besides its own
NAME = 2  # bytes that a worker names itself with


@dataclass(frozen=True)
class Seat:
    """Where a worker gets connections: from the kernel, and from the other workers, which have the
    way in. What waits there is not lost with a worker that dies: the next one finds it.

    has, handed, taken: int64 in memory of all workers: how many connections it has; how many it
    handed to each worker; how many it took from each. Only it writes there, so nothing has to be
    locked, and nothing stays locked by one that is killed.
    """

    listener: socket.socket
    inbox: socket.socket
    way_in: socket.socket
    has: Any
    handed: Any
    taken: Any

    @classmethod
    def at(cls, listener: socket.socket, workers: int) -> "Seat":
        """One of so many workers', with a listener of its own."""
        counts = (RawArray(c_longlong, workers) for _ in range(2))
        seat = cls(listener, *socket.socketpair(), RawValue(c_longlong, AWAY), *counts)
        for side in (seat.listener, seat.inbox, seat.way_in):
            side.setblocking(False)
        return seat

    def vacate(self) -> None:
        """Nobody takes connections in here for now: those of others stay with them."""
        self.has.value = AWAY

    def leave(self) -> None:
        """Let go of what another process listens on: its port is free when that one has ended."""
        self.listener.close()
        self.inbox.close()

    def close(self) -> None:
        """Let go of all of it."""
        self.leave()
        self.way_in.close()


class Dealer:
    """Takes connections in for one of the workers, or hands them to another."""

    def __init__(
        self,
        seats: Sequence[Seat],
        own: int,
        protocol: Callable[[Callable[[], None]], asyncio.Protocol],
    ) -> None:
        """own: which of the workers this is. protocol: makes one for a connection; what it is given
        is to be called once that is lost."""
        self._seats, self._own, self._protocol = seats, own, protocol
        self._seat = seats[own]
        # This one first: where several have the fewest it stays.
        self._workers = [own, *(k for k in range(len(seats)) if k != own)]
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._seat.has.value = 0
        self._open()

    async def close(self) -> None:
        """Take no more in; what was taken in has begun then, and can be ended."""
        if self._later:  # it has rested, or does so still
            self._later.cancel()
        if self._seat.has.value < AWAY:
            self._shut()
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _open(self) -> None:
        self._loop.add_reader(self._seat.listener, self._accept)
        self._loop.add_reader(self._seat.inbox, self._take)

    def _shut(self) -> None:
        self._seat.has.value += AWAY
        self._loop.remove_reader(self._seat.listener)
        self._loop.remove_reader(self._seat.inbox)

    def _rest(self, error: OSError) -> None:
        """Take none in for a while: too many files are open, say, and it would be tried at each
        turn of the event loop."""
        logger.error("no connection can be taken in for %g s: %s", RETRY, error)
        self._shut()
        self._later = self._loop.call_later(RETRY, self._again)

    def _again(self) -> None:
        self._seat.has.value -= AWAY
        self._open()

    def _accept(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                connection, _ = self._seat.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            fewest = min(self._workers, key=self._count)
            if fewest == self._own or not self._handed(connection, fewest):
                self._keep(connection)

    def _count(self, worker: int) -> int:
        """Connections of a worker, with those handed to it that it has not taken yet."""
        theirs = self._seats[worker]
        handed = sum(seat.handed[worker] for seat in self._seats)
        return int(theirs.has.value + handed - sum(theirs.taken))

    def _handed(self, connection: socket.socket, to: int) -> bool:
        """Whether a connection could be handed to another worker."""
        name = self._own.to_bytes(NAME, "big")
        try:
            socket.send_fds(self._seats[to].way_in, [name], [connection.fileno()])
        except OSError:  # so many wait there already
            return False
        self._seat.handed[to] += 1
        connection.close()  # here
        return True

    def _take(self) -> None:
        for _ in range(AT_A_TIME):
            try:  # one there is no room for would be lost
                os.close(os.dup(self._seat.inbox.fileno()))
            except OSError as error:
                self._rest(error)
                return
            try:
                name, files, _, _ = socket.recv_fds(self._seat.inbox, NAME, 1)
            except (BlockingIOError, InterruptedError):
                return
            self._seat.taken[int.from_bytes(name, "big")] += 1
            for file in files:
                self._keep(socket.socket(fileno=file))

    def _keep(self, connection: socket.socket) -> None:
        self._seat.has.value += 1
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._protocol(self._lost), connection)
        except OSError:  # its client has gone
            connection.close()
            self._lost()

    def _lost(self) -> None:
        self._seat.has.value -= 1
