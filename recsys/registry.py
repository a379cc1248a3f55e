"""Registry: published bundles in a folder, and the pointer that names the active one."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from recsys import bundle as bundles
from recsys.bundle import Bundle, BundleError
from recsys.events import InputError

POINTER = "CURRENT"


class RegistryError(InputError):
    """Nothing is published, or publishing failed; the text says what to do."""


class Registry:
    """Bundles under ``path``, one folder per version, and the ``CURRENT`` pointer."""

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
            raise RegistryError(f"no bundle {version} in {self.path}: {self.versions() or 'none'}")
        return bundles.load(folder)

    def publish(self, bundle: Bundle) -> str:
        """Write a bundle and make it the active one; returns its version.

        At any moment the pointer names a whole bundle: the folder is written aside, flushed,
        renamed, and only then named. Raises RegistryError when the disk does not take it; the
        active bundle stays.
        """
        with _explained(self.path, self.active()):
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            aside = self.path / f".publish-{os.getpid()}-{secrets.token_hex(4)}"
            aside.mkdir()
            try:
                bundles.save(bundle, aside)
                self._place(aside, bundle.version)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            self.activate(bundle.version)
        return bundle.version

    def activate(self, version: str) -> None:
        """Point to a published version."""
        if not (self.path / version / bundles.MANIFEST).exists():
            raise RegistryError(f"no bundle {version} in {self.path}")
        pointer = self.path / f".{POINTER}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            pointer.write_text(version + "\n")
            bundles.fsync(pointer)
            pointer.rename(self.path / POINTER)
        finally:
            pointer.unlink(missing_ok=True)
        bundles.fsync(self.path)

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
