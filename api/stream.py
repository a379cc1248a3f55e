"""`recsys stream`: a reader of the live log as a process of its own."""

import _thread
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import orjson
from rich.console import Console

from api.settings import from_environment
from api.upkeep import Schedule, Upkeep, note_items
from recsys.embedded import EmbeddedRedis, end_with_parent
from recsys.events import InputError
from recsys.lake import Lake
from recsys.store import StoreConfig, StoreUnavailable, redacted
from recsys.stream import NewerLogError, Stream

EVENTS = "events"  # the folder of the lake in the data directory
TOLD_EVERY = 10.0  # seconds between lines on standard error

console = Console(stderr=True)
logger = logging.getLogger("recsys.stream")


def stream(
    data_dir: Path,
    redis_url: str | None = None,
    *,
    every: float = 10.0,
    once: bool = False,
    as_json: bool = False,
    schedule: Schedule | None = None,
) -> int:
    """Write what visitors do into files until SIGINT or SIGTERM; returns the exit status.

    redis_url: default the embedded server of the data directory. every: seconds until what came is
    in a file. once: write what there is and return. as_json: at the end, print one JSON object.
    schedule: when the active bundle is refitted or trained anew from the files, meanwhile.
    Raises InputError, StoreUrlError, EmbeddedError, OSError, RuntimeError where Redis does not
    answer at once, and NewerLogError.
    """
    if not every > 0:
        raise InputError(f"--every: must be above 0 seconds, got {every:g}")
    if once and schedule:
        raise InputError(
            "--once ends at once: leave --refit, --refit-events, --refit-drift and --retrain out, "
            "and run `recsys train --refit` on the files"
        )
    config = from_environment(os.environ).store
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    folder = Path(data_dir) / EVENTS
    with contextlib.ExitStack() as stack:
        if not redis_url:
            redis_url = stack.enter_context(EmbeddedRedis.start(Path(data_dir) / "redis")).url
        reader = Stream(redis_url, Lake(folder), config, every)
        try:
            reader.check()
            folder.mkdir(parents=True, exist_ok=True)
            if once:
                reader.drain()
                note_items(reader, Path(data_dir))
            else:
                console.print(f"reading {redacted(redis_url)} into {folder}", highlight=False)
                with stopping() as stop, _upkeep(data_dir, folder, schedule) as upkeep:
                    reader.run(stop, _Teller(upkeep))
        except StoreUnavailable as error:
            raise RuntimeError(f"{redacted(redis_url)}: {error}") from error
    console.print(f"{reader.written:,} events written to {folder}", highlight=False)
    if once and reader.written:
        console.print(f"next: recsys train {folder} --data-dir {data_dir}", highlight=False)
    if as_json:
        print(orjson.dumps({"written": reader.written, "folder": str(folder)}).decode(), flush=True)
    return 0


def follow(
    url: str, data_dir: Path, config: StoreConfig, schedule: Schedule | None, parent: int
) -> None:
    """What `recsys serve` runs in a process beside its workers, which ends with it."""
    end_with_parent(parent)
    # Ctrl-C reaches the whole group; the reader stops after the workers, when it is told to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    folder = data_dir / EVENTS
    with stopping(signal.SIGTERM) as stop, _upkeep(data_dir, folder, schedule) as upkeep:
        try:
            Stream(url, Lake(folder), config).run(stop, upkeep)
        except NewerLogError as error:
            logger.error("%s", error)  # tried again by who started this


@contextlib.contextmanager
def stopping(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that signals set, by default SIGINT and SIGTERM."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        # In a thread: a handler runs amid what it interrupts, which may be another one, or a wait
        # for this very event, and holds its lock. A parent that is killed sends a signal for each
        # of its threads.
        _thread.start_new_thread(stop.set, ())

    numbers = signals or (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _upkeep(
    data_dir: Path, folder: Path, schedule: Schedule | None
) -> Iterator[Callable[[Stream], None]]:
    """What is called after each turn of a reader, to have done what is due."""
    if schedule is None:
        yield lambda _reader: None
        return
    with contextlib.closing(Upkeep(Path(data_dir), folder, schedule)) as upkeep:
        yield upkeep


class _Teller:
    """Says now and then how many events were written, if more were. upkeep: called each time."""

    def __init__(self, upkeep: Callable[[Stream], None]) -> None:
        self._written, self._when = 0, time.monotonic()
        self._upkeep = upkeep

    def __call__(self, reader: Stream) -> None:
        self._upkeep(reader)
        if time.monotonic() - self._when >= TOLD_EVERY:
            self._when = time.monotonic()
            if reader.written > self._written:
                self._written = reader.written
                console.print(f"{reader.written:,} events written", highlight=False)
