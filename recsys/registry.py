"""Registry: published bundles in a folder, and the pointer that names the active one."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from recsys import bundle as bundles
from recsys.bundle import MANIFEST, Bundle, BundleError
from recsys.config import nearest
from recsys.events import InputError

POINTER = "CURRENT"
# Every activation and rollback, a line each: Unix seconds, what, version. Who moves the pointer
# holds a lock on this file.
HISTORY = "HISTORY"
# What the gate found of a version, VERDICTS/<version>.json; a bundle's own folder never changes.
VERDICTS = "VERDICTS"
# Why servers rolled back from a version, WITHDRAWN/<version>.json.
WITHDRAWN = "WITHDRAWN"
ACTIVATED, ROLLED_BACK = "activated", "rolled-back-to"


class RegistryError(InputError):
    """Nothing is published, or publishing failed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Succession:
    """That a version took the place of another, the former. since: Unix seconds."""

    version: str
    former: str
    since: float

    @property
    def name(self) -> str:
        """Of this one; the same two may follow each other again."""
        return f"{self.version}:{self.since:.3f}"


class Registry:
    """Bundles under ``path``, one folder per version, and the ``CURRENT`` pointer.

    Whoever serves follows the pointer within a second, without a restart.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def versions(self) -> list[str]:
        """Published versions, oldest first."""
        folders = [p for p in self.path.glob("*") if (p / bundles.MANIFEST).exists()]
        visible = [p for p in folders if not p.name.startswith(".")]
        return [p.name for p in sorted(visible, key=lambda p: (p.stat().st_mtime_ns, p.name))]

    def active(self) -> str | None:
        """The version the pointer names; ``None`` before the first is published."""
        try:
            return (self.path / POINTER).read_text().strip() or None
        except FileNotFoundError:
            return None

    def load(self, version: str | None = None) -> Bundle:
        """Load a version, by default the active one. Raises RegistryError or BundleError."""
        return bundles.load(self.folder(version))

    def folder(self, version: str | None = None) -> Path:
        """Where a version lies, by default the active one. Raises RegistryError."""
        version = version or self.active()
        if version is None:
            raise RegistryError(
                f"no bundle in {self.path} yet: "
                f"run `recsys train LOG --data-dir {self.path.parent}`"
            )
        folder = self.path / version
        if not folder.is_dir():
            raise RegistryError(self._no_bundle(version))
        return folder

    def publish(self, bundle: Bundle, verdict: Mapping[str, Any] | None = None) -> str:
        """Write a bundle and make it the active one; returns its version.

        verdict: what the gate found, plain JSON values. Where its "passed" is false the bundle is
        kept aside: there for a person to activate, never active by itself. So is one that was
        withdrawn before.

        At any moment the pointer names a whole bundle: the folder is written aside, flushed,
        renamed, and only then named; a verdict is there before its bundle. Raises RegistryError
        when the disk does not take it; the active bundle stays.
        """
        with _explained(self.path, self.active()):
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            aside = self.path / f".publish-{os.getpid()}-{secrets.token_hex(4)}"
            aside.mkdir()
            try:
                bundles.save(bundle, aside)
                if verdict is not None:
                    self._write_note(VERDICTS, bundle.version, verdict)
                self._place(aside, bundle.version)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            if (verdict is None or verdict["passed"]) and not self.withdrawn(bundle.version):
                self.activate(bundle.version)
        return bundle.version

    def verdict(self, version: str) -> dict[str, Any] | None:
        """What the gate found of a version, None where it was not asked. Raises RegistryError."""
        return self._note(VERDICTS, version)

    def refused(self, version: str) -> bool:
        """Whether the gate kept a version aside. Raises RegistryError."""
        verdict = self.verdict(version)
        return verdict is not None and not verdict["passed"]

    def withdrawn(self, version: str) -> dict[str, Any] | None:
        """Why servers rolled back from a version, None where they did not. Raises RegistryError."""
        return self._note(WITHDRAWN, version)

    def activate(self, version: str) -> None:
        """Point to a published version. Raises RegistryError."""
        with self._locked():
            self._point(version, ACTIVATED)

    def line(self) -> list[str]:
        """The active version and those it was refitted from that are there, latest first.

        Raises RegistryError.
        """
        active = self.active()
        there = set(self.versions())
        if active is None or active not in there:
            return []
        return [active, *(version for version in reversed(self._line(active)) if version in there)]

    def previous(self) -> str | None:
        """The version that a rollback goes to; ``None`` where there is none."""
        return next(reversed(self._before()), None)

    def rollback(self) -> str:
        """Point to the version that was active before the active one; returns it.

        Raises RegistryError where there is none.
        """
        with self._locked():
            version = self.previous()
            if version is None:
                raise RegistryError(
                    f"{self.path}: no bundle was active before {self.active() or 'any'}; `recsys "
                    "bundles list` shows those there are, `recsys bundles activate` takes one"
                )
            self._point(version, ROLLED_BACK)
        return version

    def succession(self) -> Succession | None:
        """Whose place the active version took.

        None where it is the first, where a rollback led to it, and where it was withdrawn before:
        then a person has activated it again, who knows.
        """
        with self._locked():
            return self._succession()

    def withdraw(self, succession: Succession, why: Mapping[str, Any]) -> bool:
        """Roll back to the former version, and say why: plain JSON values, its "reason" a sentence.

        Does nothing, and returns False, where that is not how things stand any more: a person, or
        another process that found the same, came first. Raises RegistryError.
        """
        with self._locked():
            if self._succession() != succession:
                return False
            # In this order: should it be the last thing a process does, the right bundle serves.
            self._point(succession.former, ROLLED_BACK)
            self._write_note(WITHDRAWN, succession.version, why)
        return True

    def manifest(self, version: str) -> dict[str, Any]:
        """What a version says of itself, without loading it. Raises RegistryError."""
        try:
            found: dict[str, Any] = orjson.loads((self.path / version / MANIFEST).read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise RegistryError(self._no_bundle(version)) from error
        return found

    def prune(self, keep: int, refits: bool = False) -> list[str]:
        """Remove all but the newest versions, the active one, the full training it comes from and
        that of a rollback; returns those. refits: remove no full training.

        What a process has loaded stays readable to it. Raises RegistryError.
        """
        if keep < 0:
            raise RegistryError(f"--keep: must not be negative, got {keep}")
        versions = self.versions()
        newest = versions[max(0, len(versions) - keep) :]
        spared = {*newest, *self.line()[-1:], self.active(), self.previous()}
        removed = [
            version
            for version in versions
            if version not in spared and (not refits or self._line(version))
        ]
        for version in removed:
            # Out of sight first: a half-removed folder is no bundle.
            aside = self.path / f".prune-{os.getpid()}-{version}"
            (self.path / version).rename(aside)
            for notes in (VERDICTS, WITHDRAWN):
                self._note_path(notes, version).unlink(missing_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
        return removed

    def _line(self, version: str) -> list[str]:
        """What a version was refitted from, the full training first."""
        found: list[str] = self.manifest(version)["facts"].get("line", [])
        return found

    def _no_bundle(self, version: str) -> str:
        known = self.versions()
        there = ", ".join(known) if known else "none"
        return f"no bundle {version} in {self.path}{nearest(version, known)}; there: {there}"

    def _before(self) -> list[str]:
        """Versions that were active before the active one and are still there, oldest first."""
        stack: list[str] = []
        for _, what, version in self._history():
            if what == ROLLED_BACK:
                del stack[len(stack) - stack[::-1].index(version) :]
            elif stack[-1:] != [version]:
                stack.append(version)
        active = self.active()
        if active in stack:
            del stack[len(stack) - 1 - stack[::-1].index(active) :]
        there = set(self.versions())
        return [version for version in stack if version in there and version != active]

    def _succession(self) -> Succession | None:
        active, former = self.active(), self.previous()
        what, since = "", 0.0
        for when, moved, version in reversed(self._history()):
            if version != active:
                break
            what, since = moved, when
        if not active or not former or what != ACTIVATED or self.withdrawn(active):
            return None
        return Succession(active, former, since)

    def _history(self) -> list[tuple[float, str, str]]:
        """When the pointer moved, how, and to which version."""
        try:
            lines = (self.path / HISTORY).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(float(when), what, version) for when, what, version in map(str.split, lines)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the pointer and its history among all processes."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):  # no folder: nothing was ever published
                history = stack.enter_context((self.path / HISTORY).open("a"))
                fcntl.flock(history, fcntl.LOCK_EX)
            yield

    def _point(self, version: str, what: str) -> None:
        if not (self.path / version / bundles.MANIFEST).exists():
            raise RegistryError(self._no_bundle(version))
        self._write(self.path / POINTER, f"{version}\n".encode())
        with (self.path / HISTORY).open("a") as history:
            history.write(f"{time.time():.3f} {what} {version}\n")
        bundles.fsync(self.path / HISTORY)
        bundles.fsync(self.path)

    def _note_path(self, notes: str, version: str) -> Path:
        return self.path / notes / f"{version}.json"

    def _note(self, notes: str, version: str) -> dict[str, Any] | None:
        path = self._note_path(notes, version)
        try:
            found: dict[str, Any] = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            what = "verdict" if notes == VERDICTS else "reason"
            raise RegistryError(f"{path}: no readable {what}: {error}; remove the file") from error
        return found

    def _write_note(self, notes: str, version: str, note: Mapping[str, Any]) -> None:
        (self.path / notes).mkdir(exist_ok=True)
        data = orjson.dumps(note, option=orjson.OPT_INDENT_2)
        self._write(self._note_path(notes, version), data)
        for folder in (self.path / notes, self.path):
            bundles.fsync(folder)

    def _write(self, target: Path, data: bytes) -> None:
        """Put a file in its place, whole: written aside, flushed, renamed."""
        aside = self.path / f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            aside.write_bytes(data)
            bundles.fsync(aside)
            aside.rename(target)
        finally:
            aside.unlink(missing_ok=True)

    def _place(self, aside: Path, version: str) -> None:
        target = self.path / version
        if target.exists():
            try:
                bundles.load(target)
                return
            except BundleError:
                # The same content is wanted and what lies there is damaged.
                shutil.rmtree(target)
        aside.rename(target)
        bundles.fsync(self.path)

    def _sweep(self) -> None:
        """Remove what publishers that died left behind."""
        for path in self.path.glob(".*-*-*"):
            if not _alive(int(path.name.split("-")[1])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _explained(path: Path, active: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        stays = f"bundle {active} stays active" if active else "there is no active bundle yet"
        raise RegistryError(
            f"{path}: publishing failed: {cause}; nothing was changed, {stays}"
        ) from error
