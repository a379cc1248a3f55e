"""`recsys serve`: an embedded Redis unless given one, worker processes, and an orderly end.

With the embedded server, which no other process can reach, a reader of the live log runs beside the
workers; with another Redis, that is `recsys stream`. Both are the supervisor's.
"""

import asyncio
import contextlib
import errno
import fcntl
import http.client
import ipaddress
import logging
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import orjson

from api.dealing import Seat
from api.settings import from_environment
from api.stream import stopping
from api.supervisor import (
    END_TIMEOUT,
    GAVE_UP,
    Told,
    begin,
    end,
    forked,
    supervise,
)
from api.upkeep import Schedule
from recsys.embedded import EmbeddedRedis
from recsys.events import InputError
from recsys.store import Store, StoreConfig, StoreUnavailable, check_url, redacted

logger = logging.getLogger("recsys.serve")

APP = "api.app:create_app"
BACKLOG = 2048  # connections waiting per worker
METRICS_PREFIX = "recsys-metrics-{}-"  # of the folder in the system's temporary one; {}: a pid
# Workers share the cores already; numpy's and FAISS's own threads would only fight over them.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ServeError(InputError):
    """What was asked for cannot be served; the text says why and what helps."""


def serve(
    data_dir: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 2,
    redis_url: str | None = None,
    *,
    app: str = APP,
    environment: Mapping[str, str] | None = None,
    as_json: bool = False,
    schedule: Schedule | None = None,
    fresh: bool = False,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status, 1 when the workers do not start.

    Runs in the main thread. app: "module:function" that makes the application. environment: more
    variables for the workers. as_json: when ready, print one JSON object to stdout, and the address
    line, else printed there, to stderr. schedule: when the reader of the embedded server refits the
    active bundle or trains anew. fresh: nothing was done in this process but to import, so that the
    supervisor can be forked from it; the pools of who has read or written tables would be dead in
    it, and the reader, which writes some, would wait for them for ever. Raises ServeError,
    StoreUrlError, EmbeddedError.
    """
    _check_host(host)
    if redis_url and schedule:
        raise ServeError(
            "with --redis-url the live log is read by `recsys stream`: give --refit, "
            "--refit-events, --refit-drift and --retrain to that"
        )
    if workers < 1:
        raise ServeError(f"workers: at least 1 is needed, got {workers}")
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stopping())
        seats = _listen(host, port, workers, stack)
        port = seats[0].listener.getsockname()[1]
        # Before any thread runs here: that of the embedded server is one.
        beginning = forked(app, seats) if fresh else None
        if beginning:
            stack.callback(beginning[1].close)
        if redis_url:
            _check_redis(redis_url)
        else:
            server = stack.enter_context(EmbeddedRedis.start(Path(data_dir) / "redis"))
        told = {
            "workers": workers,
            "data_dir": str(data_dir),
            "redis": redacted(redis_url) if redis_url else "embedded",
        }
        redis_url = redis_url or server.url
        metrics = stack.enter_context(_metrics_folder())
        variables = {
            **{name: os.environ.get(name) or "1" for name in THREAD_VARIABLES},
            **(environment or {}),
            "RECSYS_DATA_DIR": str(data_dir),
            "RECSYS_REDIS_URL": redis_url,
            "PROMETHEUS_MULTIPROC_DIR": metrics,
        }
        stack.enter_context(_environment(variables))
        settings = from_environment(os.environ)  # a bad variable is told here, once
        reader: Told | None = None
        if told["redis"] == "embedded":
            reader = (redis_url, Path(data_dir), settings.store, schedule)
        announcer = threading.Thread(
            target=_announce, args=(host, port, stop, told, as_json), daemon=True
        )
        announcer.start()
        status = _supervised(app, seats, metrics, stop, reader, beginning)
        stop.set()
        announcer.join()
    return status


def _supervised(
    app: str,
    seats: list[Seat],
    metrics: str,
    stop: threading.Event,
    reader: Told | None,
    beginning: tuple[BaseProcess, Connection] | None,
) -> int:
    """Have workers and reader run, in a process of their own, until told to stop. beginning: that
    process, if it was forked already."""
    # Else a fresh interpreter, without the threads of this one: it forks the others.
    context = multiprocessing.get_context("spawn")
    arguments = (app, seats, metrics, reader, os.getpid())
    process: BaseProcess
    if beginning:
        process, channel = beginning
        begin(channel, metrics, reader)
    else:
        process = context.Process(target=supervise, args=arguments, daemon=False)
        process.start()
    try:
        while not stop.is_set():
            wait([process.sentinel], timeout=0.2)
            if process.exitcode is None or stop.is_set():
                continue
            if process.exitcode == GAVE_UP:
                return GAVE_UP
            logger.error("supervisor %d ended with status %d", process.pid, process.exitcode)
            process = context.Process(target=supervise, args=arguments, daemon=False)
            process.start()
        return 0
    finally:
        end([process], 2 * END_TIMEOUT + 2)  # it ends the workers, and then the reader


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """A folder for the workers' metrics; those of owners that were killed are removed first.

    The owner holds a lock on its folder. The kernel lets go of it with the process, which no pid
    tells so surely: it may be used again, or belong to another container.
    """
    for path in Path(tempfile.gettempdir()).glob(METRICS_PREFIX.format("*") + "*"):
        lock = _lock_folder(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    while True:
        folder = tempfile.mkdtemp(prefix=METRICS_PREFIX.format(os.getpid()))
        lock = _lock_folder(Path(folder))
        if lock is None:  # another start has just taken it for a leftover
            continue
        if Path(folder).exists():
            break
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock_folder(path: Path) -> int | None:
    """A descriptor that holds the lock on a folder, or None if somebody else has it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _listen(host: str, port: int, count: int, stack: contextlib.ExitStack) -> list[Seat]:
    """A seat for each worker on the same address, closed by the stack.

    The kernel spreads connections over their listeners; with one shared socket, a worker that wakes
    up takes all that wait. They stay open here, so a worker that dies loses no waiting connection.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Without SO_REUSEPORT first: another server on this port must not share it with us.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        seats = []
        for _ in range(count):
            # TCP by name: asyncio's own loop lets small answers wait on any other (Nagle).
            listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            seats.append(Seat.at(listener, count))
            stack.callback(seats[-1].close)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
    except OverflowError as error:
        raise ServeError(f"port: must be 0 to 65535, got {port}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                f"port {port} on {host} is in use: stop what listens there, or choose another "
                f"one, for example --port {port + 1}"
            ) from error
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return seats


def _check_host(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ServeError(
            f"host {host}: without access keys the server is for this machine only; use "
            "127.0.0.1, and put a proxy that authenticates in front to serve others"
        )


def _check_redis(url: str) -> None:
    async def ping() -> None:
        store = Store(check_url(url), StoreConfig(timeout=3.0))
        try:
            await store.ping()
        finally:
            await store.close()

    try:
        asyncio.run(ping())
    except StoreUnavailable as error:
        raise ServeError(
            f"{redacted(url)}: {error}; start that Redis or correct the URL, or leave "
            "--redis-url and RECSYS_REDIS_URL out to use the embedded one"
        ) from error


def _announce(
    host: str, port: int, stop: threading.Event, told: Mapping[str, object], as_json: bool
) -> None:
    """Print the address once it answers, and what /health/ready has to say."""
    while not stop.wait(0.05):
        try:
            status, body = _get(host, port, "/health/ready")
        except OSError:
            continue
        health = orjson.loads(body)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(
            f"Serving on {url} ({told['workers']} workers, this machine only)",
            file=sys.stderr if as_json else sys.stdout,
            flush=True,
        )
        if status == 503:
            print(health["detail"], file=sys.stderr, flush=True)
        if as_json:
            ready = {"url": url, **told, "bundle": health.get("bundle")}
            print(orjson.dumps(ready).decode(), flush=True)
        return


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for processes started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
