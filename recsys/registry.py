"""Registry: published bundles in a folder, and the pointer that names the active one."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from recsys import bundle as bundles
from recsys.bundle import MANIFEST, Bundle, BundleError
from recsys.config import nearest
from recsys.events import InputError

POINTER = "CURRENT"
# Every activation and rollback, a line each: Unix seconds, what, version.
HISTORY = "HISTORY"
# What the gate found of a version, VERDICTS/<version>.json; a bundle's own folder never changes.
VERDICTS = "VERDICTS"
ACTIVATED, ROLLED_BACK = "activated", "rolled-back-to"


class RegistryError(InputError):
    """Nothing is published, or publishing failed; the text says what to do."""


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
        version = version or self.active()
        if version is None:
            raise RegistryError(
                f"no bundle in {self.path} yet: "
                f"run `recsys train LOG --data-dir {self.path.parent}`"
            )
        folder = self.path / version
        if not folder.is_dir():
            raise RegistryError(self._no_bundle(version))
        return bundles.load(folder)

    def publish(self, bundle: Bundle, verdict: Mapping[str, Any] | None = None) -> str:
        """Write a bundle and make it the active one; returns its version.

        verdict: what the gate found, plain JSON values. Where its "passed" is false the bundle is
        kept aside: there for a person to activate, never active by itself.

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
                    self._write_verdict(bundle.version, verdict)
                self._place(aside, bundle.version)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            if verdict is None or verdict["passed"]:
                self.activate(bundle.version)
        return bundle.version

    def verdict(self, version: str) -> dict[str, Any] | None:
        """What the gate found of a version, None where it was not asked. Raises RegistryError."""
        path = self._verdict_of(version)
        try:
            found: dict[str, Any] = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise RegistryError(f"{path}: no readable verdict: {error}; remove the file") from error
        return found

    def refused(self, version: str) -> bool:
        """Whether the gate kept a version aside. Raises RegistryError."""
        verdict = self.verdict(version)
        return verdict is not None and not verdict["passed"]

    def activate(self, version: str) -> None:
        """Point to a published version. Raises RegistryError."""
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
        version = self.previous()
        if version is None:
            raise RegistryError(
                f"{self.path}: no bundle was active before {self.active() or 'any'}; "
                "`recsys bundles list` shows those there are, `recsys bundles activate` takes one"
            )
        self._point(version, ROLLED_BACK)
        return version

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
            self._verdict_of(version).unlink(missing_ok=True)
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
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / HISTORY).read_text().splitlines():
                _, what, version = line.split()
                if what == ROLLED_BACK:
                    del stack[len(stack) - stack[::-1].index(version) :]
                elif stack[-1:] != [version]:
                    stack.append(version)
        active = self.active()
        if active in stack:
            del stack[len(stack) - 1 - stack[::-1].index(active) :]
        there = set(self.versions())
        return [version for version in stack if version in there and version != active]

    def _point(self, version: str, what: str) -> None:
        if not (self.path / version / bundles.MANIFEST).exists():
            raise RegistryError(self._no_bundle(version))
        self._write(self.path / POINTER, f"{version}\n".encode())
        with (self.path / HISTORY).open("a") as history:
            history.write(f"{time.time():.3f} {what} {version}\n")
        bundles.fsync(self.path / HISTORY)
        bundles.fsync(self.path)

    def _verdict_of(self, version: str) -> Path:
        return self.path / VERDICTS / f"{version}.json"

    def _write_verdict(self, version: str, verdict: Mapping[str, Any]) -> None:
        (self.path / VERDICTS).mkdir(exist_ok=True)
        self._write(self._verdict_of(version), orjson.dumps(verdict, option=orjson.OPT_INDENT_2))
        for folder in (self.path / VERDICTS, self.path):
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
