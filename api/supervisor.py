"""The supervisor: the process that `recsys serve` has its workers and its reader from.

It imports what they need once and forks them, so that one starts in a fraction of the time and
shares the memory of what was imported. Nothing else runs in it, no thread above all, whose locks
a fork would copy as they are: the server of Redis and the address line stay with the process above.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import uvicorn
from threadpoolctl import threadpool_limits

from api.dealing import Dealer, Seat
from api.stream import follow, stopping
from api.upkeep import Schedule
from api.wire import Http
from recsys.embedded import end_with_parent
from recsys.store import StoreConfig

logger = logging.getLogger("recsys.serve")

STOP_TIMEOUT = 10  # seconds for requests under way when stopping
END_TIMEOUT = STOP_TIMEOUT + 2  # seconds from SIGTERM to SIGKILL
YOUNG = 5.0  # seconds; a worker that dies younger failed to start
MAX_YOUNG_DEATHS = 3  # in a row, then serving is given up
READER_PAUSE = 1.0  # seconds until a reader that died is started again
READER_NICE = 5  # how far it stands back where processors are short
GAVE_UP = 1  # the status of a supervisor whose workers do not start
if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("fork")
else:  # whose own libraries do not stand it
    CONTEXT = multiprocessing.get_context("spawn")

# What the reader is told: the URL, the data folder, the store's settings, when to train.
Told = tuple[str, Path, StoreConfig, Schedule | None]


def forked(app: str, seats: list[Seat]) -> tuple[BaseProcess, Connection] | None:
    """A process that becomes the supervisor once it is told, by :func:`begin`, how; None where that
    cannot be forked. Before any thread of ours or of a pool runs here: it has what is imported
    here, for nothing."""
    if sys.platform != "linux":
        return None
    ours, theirs = multiprocessing.Pipe()
    process = CONTEXT.Process(target=_wait, args=(app, seats, theirs, ours, os.getpid()))
    process.start()
    theirs.close()
    return process, ours


def begin(channel: Connection, metrics: str, reader: Told | None) -> None:
    """Let a forked process supervise, with the environment of now; one that has ended meanwhile is
    left to who waits for it."""
    with contextlib.suppress(ConnectionError):
        channel.send((dict(os.environ), metrics, reader))


def _wait(app: str, seats: list[Seat], channel: Connection, other: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)
    other.close()
    try:
        environment, metrics, reader = channel.recv()
    except EOFError:  # nothing is to be served after all
        return
    os.environ.update(environment)
    # What was imported already has not seen the variables.
    _limit("openmp", environment["OMP_NUM_THREADS"])
    _limit("blas", environment["OPENBLAS_NUM_THREADS"])
    supervise(app, seats, metrics, reader, parent)


def _limit(pools: str, threads: str) -> None:
    """The threads of pools, as a variable has them: "4", or "4,2" where some are nested. What is
    no number is passed over, as they do themselves."""
    first = threads.split(",")[0].strip()
    if first.isdecimal() and int(first):
        threadpool_limits(int(first), pools)


def supervise(app: str, seats: list[Seat], metrics: str, reader: Told | None, parent: int) -> None:
    """Keep one worker per seat, and a reader if any, until SIGTERM; the main of a process.

    app: "module:function" that makes the application. metrics: the folder of the workers'.
    """
    end_with_parent(parent)
    # Ctrl-C reaches the whole group; who started this will say when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    _name("supervisor")
    import api.app  # noqa: F401  # takes a second or two, here instead of in each worker

    # What is alive now is left alone by the collectors of all processes, which would copy it.
    gc.freeze()
    with stopping(signal.SIGTERM) as stop:
        sys.exit(_run(app, seats, metrics, reader, stop))


def _run(
    app: str,
    seats: list[Seat],
    metrics: str,
    told: Told | None,
    stop: threading.Event,
) -> int:
    running = [_start(_work, app, seats, k) for k in range(len(seats))]
    started = [time.monotonic()] * len(seats)
    young_deaths = 0
    reader = _start(_read, seats, told) if told else None
    try:
        while not stop.is_set():
            if reader and reader.exitcode is not None:
                logger.error("the reader %d ended with status %d", reader.pid, reader.exitcode)
                stop.wait(READER_PAUSE)
                reader = _start(_read, seats, told)
            wait([process.sentinel for process in running], timeout=0.2)
            for k, process in enumerate(running):
                if process.exitcode is None or stop.is_set():
                    continue
                logger.error("worker %d ended with status %d", process.pid, process.exitcode)
                seats[k].vacate()
                _forget_metrics(metrics, process)
                # SIGKILL is somebody else's act, and no sign that workers cannot start.
                killed = process.exitcode == -signal.SIGKILL
                young = time.monotonic() - started[k] < YOUNG and not killed
                young_deaths = young_deaths + 1 if young else 0
                if young_deaths >= MAX_YOUNG_DEATHS:
                    logger.error("workers do not start; giving up")
                    return GAVE_UP
                running[k], started[k] = _start(_work, app, seats, k), time.monotonic()
        return 0
    finally:
        end(running, END_TIMEOUT)
        if reader:  # after the workers: what they accepted last is written too
            end([reader], END_TIMEOUT)


def _start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process for a function, whose last argument is the pid of this one."""
    process = CONTEXT.Process(target=target, args=(*arguments, os.getpid()), daemon=False)
    # A SIGTERM that comes before the process has handlers of its own waits until it has.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _begin(name: str, parent: int) -> None:
    """What a process does first: be ended with the supervisor, and by SIGTERM."""
    end_with_parent(parent)
    _name(name)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _name(role: str) -> None:
    """What `ps -e` and `top` call this process, where they can be told; 15 characters are shown."""
    if sys.platform == "linux":
        Path("/proc/self/comm").write_text(f"recsys-{role}")


def _work(app: str, seats: list[Seat], k: int, parent: int) -> None:
    """A worker process: one event loop on one seat."""
    _begin("worker", parent)
    for other in seats[:k] + seats[k + 1 :]:
        other.leave()
    # Ctrl-C reaches the whole group. Uvicorn stops, then raises the signal again for the handler
    # that was there before, which would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = uvicorn.Config(
        app,
        factory=True,
        loop="auto",
        http=Http,
        ws="none",  # a protocol of those would not tell the dealer of its end
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("recsys").setLevel(logging.INFO)
    server = _Server(config, seats, k)
    server.run(sockets=[])
    if not server.started:
        sys.exit(3)


class _Server(uvicorn.Server):
    """Uvicorn's, of one seat."""

    def __init__(self, config: uvicorn.Config, seats: list[Seat], own: int) -> None:
        super().__init__(config)
        self._seats, self._own = seats, own

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is alive now stays as long as the worker: the collector need not walk through it
        # between requests.
        gc.collect()
        gc.freeze()
        self._dealer = Dealer(self._seats, self._own, self._protocol)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._dealer.close()
        self._seats[self._own].close()
        await super().shutdown(sockets)

    def _protocol(self, lost: Callable[[], None]) -> Http:
        return Http(self.config, self.server_state, self.lifespan.state, lost=lost)


def _read(seats: list[Seat], told: Told, parent: int) -> None:
    """The process of the reader of the live log."""
    _begin("reader", parent)
    # What a visitor waits for comes first: a file may be written a moment later.
    os.nice(READER_NICE)
    for seat in seats:
        seat.close()
    follow(*told, parent)


def end(processes: list[BaseProcess], seconds: float) -> None:
    """SIGTERM to all, and SIGKILL to those that are still there after so long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()


def _forget_metrics(folder: str, process: BaseProcess) -> None:
    """A dead worker's gauges are no longer true; its counters stay in the sums."""
    for path in Path(folder).glob(f"gauge_live*_{process.pid}.db"):
        path.unlink(missing_ok=True)
