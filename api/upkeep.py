"""Upkeep: training beside a reader of the live log, so that the active bundle keeps up with it.

What is made goes through the gate (`recsys train --gate`), in a process of its own and of low
priority: files are written on meanwhile. It ends with the reader, at whatever point: a bundle is
published by a rename or not at all.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orjson
from rich.console import Console
from rich.markup import escape

from recsys.drift import Drift
from recsys.durations import seconds_of
from recsys.embedded import LAUNCHER
from recsys.events import InputError
from recsys.itemfiles import ITEMS, write_items
from recsys.registry import Registry, RegistryError
from recsys.store import StoreUnavailable
from recsys.stream import Stream

NICE = 10  # of the process that trains
KEPT = 5  # of the newest bundles; older refits are removed
DRIFT_EVERY = 5.0  # seconds between two looks at the live hits
RETRY = 600.0  # seconds until a full training that failed is tried again
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
TOLD_LINES = 3  # of what a training that failed said last

console = Console(stderr=True)


@dataclass(frozen=True)
class Schedule:
    """What makes a bundle due; whatever comes first. Nothing is while nothing new was written.

    refit, retrain: seconds since the last refit, and the last full training. events: written since
    the last refit. None: that makes nothing due. drift: a fall of the live hits does, see
    `recsys.drift`.
    """

    refit: float | None = None
    events: int | None = None
    retrain: float | None = None
    drift: bool = False

    @classmethod
    def of(
        cls, refit: str | None, events: int | None, retrain: str | None, drift: bool
    ) -> "Schedule | None":
        """From the words of the command line, None where there are none. Raises InputError."""
        if events is not None and events < 1:
            raise InputError(f"--refit-events: must be at least 1, got {events}")
        if not (refit or events or retrain or drift):
            return None
        return cls(_seconds("--refit", refit), events, _seconds("--retrain", retrain), drift)

    def due(
        self, written: int, since_refit: float, since_training: float, fallen: str | None = None
    ) -> tuple[str, str] | None:
        """``train`` or ``refit``, and why; None where nothing is due.

        written: events since the last refit; the next two in seconds. fallen: what `Drift` says.
        """
        if not written:
            return None
        if self.retrain is not None and since_training >= self.retrain:
            return "train", "the last full training is due again"
        if self.events is not None and written >= self.events:
            return "refit", f"{written:,} new events"
        if self.drift and fallen:
            return "refit", fallen
        if self.refit is not None and since_refit >= self.refit:
            return "refit", f"{since_refit:.0f} s since the last, {written:,} new events"
        return None


@dataclass
class _Run:
    """A training under way."""

    what: str
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]

    def said(self) -> tuple[list[str], list[str]]:
        """The lines of standard output and error, once it has ended."""
        return _lines(self.out), _lines(self.err)


class Upkeep:
    """Looks, turn by turn of a reader, what is due, and has it done, one at a time."""

    def __init__(self, data_dir: Path, events: Path, schedule: Schedule) -> None:
        """events: the folder that the reader writes."""
        self.data_dir, self.events, self.schedule = data_dir, events, schedule
        self.registry = Registry(data_dir / "bundles")
        self._trained = _last_training(self.registry)
        self._refitted, self._known = time.time(), 0
        self._drift, self._looked = Drift(), -math.inf
        self._run: _Run | None = None

    def __call__(self, reader: Stream) -> None:
        """After each turn: tell of what has ended, start what is due."""
        if self._run:
            if self._run.process.poll() is not None:
                self._tell(self._run)
                self._run = None
            return
        now = time.time()
        new = reader.written - self._known
        # Told of once: not while there is nothing new to bring in.
        fallen = self._fallen(reader) if self.schedule.drift and new else None
        found = self.schedule.due(new, now - self._refitted, now - self._trained, fallen)
        if found:
            what, why = found
            if what == "train":
                # Its newest window is held out: a refit brings that in.
                self._trained = now
            else:
                self._refitted, self._known = now, reader.written
            console.print(f"{what}: {why}", highlight=False)
            note_items(reader, self.data_dir)
            self._run = self._start(what)

    @property
    def busy(self) -> bool:
        """Whether a training is under way."""
        return self._run is not None

    def close(self) -> None:
        """End what is under way; nothing of it is published."""
        if self._run:
            self._run.process.terminate()
            try:
                self._run.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._run.process.kill()
                self._run.process.wait()
            self._run.said()
            self._run = None

    def _fallen(self, reader: Stream) -> str | None:
        """Looked at now and then: whether the hits of the active bundle have fallen."""
        if time.monotonic() < self._looked + DRIFT_EVERY:
            return None
        self._looked = time.monotonic()
        try:
            version = self.registry.active()
            return self._drift.look(version, *reader.quality(version)) if version else None
        except (StoreUnavailable, OSError):  # the reader will say so
            return None

    def _start(self, what: str) -> _Run:
        words = ["train", str(self.events), "--data-dir", str(self.data_dir), "--gate", "--json"]
        words += ["--refit"] if what == "refit" else []
        command = [sys.executable, "-m", "recsys.cli", *words]
        # Read, and closed, when the process has ended.
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        # Through the launcher, it ends with this process even where that is killed.
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        return _Run(what, process, out, err)

    def _tell(self, run: _Run) -> None:
        """What came of it, in a line."""
        answer, words = run.said()
        if not answer:
            why = escape(" ".join(words[-TOLD_LINES:]))
            if run.what == "train" and self.schedule.retrain:
                # Not only after a whole period: that may be a day.
                again = min(RETRY, self.schedule.retrain)
                self._trained = time.time() - self.schedule.retrain + again
            console.print(f"[red]{run.what}: status {run.process.returncode}:[/] {why}")
            return
        outcome = escape(_outcome(orjson.loads(answer[-1])))
        console.print(f"{run.what}: {outcome}", highlight=False)
        try:
            self.registry.prune(KEPT, refits=True)
        except (RegistryError, OSError) as error:
            console.print(f"[red]older refits stay:[/] {escape(str(error))}", highlight=False)


def note_items(reader: Stream, data_dir: Path) -> None:
    """Have the catalogue in the file where training looks for it; where there is none, no file."""
    try:
        path, items = data_dir / ITEMS, reader.catalogue()
        if first := next(items, None):
            write_items(path, chain([first], items))
    except (StoreUnavailable, OSError) as error:
        console.print(f"[red]{ITEMS} stays what it was:[/] {escape(str(error))}", highlight=False)


def _outcome(summary: dict[str, Any]) -> str:
    gate = summary["gate"]
    took = f"{summary['seconds']['total']:.1f} s"
    if gate["passed"]:
        return f"bundle {summary['bundle']} is active, {took}"
    return f"bundle {summary['bundle']} is kept aside, {took}: {'; '.join(gate['reasons'])}"


def _last_training(registry: Registry) -> float:
    """When the newest full training was published or kept aside, Unix seconds; 0 for never."""
    full = [v for v in registry.versions() if not registry.manifest(v)["facts"].get("line")]
    return (registry.path / full[-1]).stat().st_mtime if full else 0.0


def _lines(file: IO[bytes]) -> list[str]:
    with file:
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()]


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    seconds = seconds_of(text)
    if not seconds:
        raise InputError(f"{option}: {text!r} is not a duration such as 10m, 6h or 1d")
    return seconds
