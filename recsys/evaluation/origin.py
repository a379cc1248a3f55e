"""Origin: what it takes to come to the same figures again."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version


@dataclass(frozen=True)
class File:
    """A file that was read: as it was named, its size and the SHA-256 of its bytes, in hex."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "File":
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(str(path), path.stat().st_size, digest)


@dataclass(frozen=True)
class Origin:
    """command: for a shell. version: of this package. python: its version. files: logs, settings.

    The bundle's hash covers what was trained and every setting; it is in the report itself.
    """

    command: str
    version: str
    python: str
    files: list[File]

    @classmethod
    def of(cls, words: Sequence[str], paths: Sequence[Path]) -> "Origin":
        """words: of the command line, after the program's name. paths: of the files it read."""
        try:
            ours = version("recsys-live")
        except PackageNotFoundError:  # run from a folder that was never installed
            ours = "not installed"
        command = shlex.join(["recsys", *words])
        return cls(command, ours, python_version(), [File.of(path) for path in paths])
