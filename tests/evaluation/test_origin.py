"""A report names what it came from, so that anyone can come to it again."""

import hashlib
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from recsys.evaluation import origin
from recsys.evaluation.origin import Origin


def test_command_and_files(tmp_path: Path) -> None:
    """The command can be pasted into a shell; files have their size and hash."""
    path = tmp_path / "my clicks.csv"
    path.write_bytes(b"a,b\n1,2\n")
    words = ["evaluate", str(path), "--holdout", "1d"]
    found = Origin.of(words, [path])
    assert shlex.split(found.command) == ["recsys", *words]
    (file,) = found.files
    assert (file.name, file.bytes) == (str(path), 8)
    assert file.sha256 == hashlib.sha256(b"a,b\n1,2\n").hexdigest()


def test_a_copy_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is then said to be unknown; nothing fails."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(origin, "version", missing)
    assert Origin.of([], []).version == "not installed"
