"""Quarantine: sessions whose traffic is suspicious count for nobody but themselves.

The store scores each session as its events arrive, and puts those of more than `StoreConfig` allows
into quarantine. They still get answers from what they do, and their events still come into the
lake; but what they did is taken out of the aggregates of items and pairs and left out of training,
until they are released. One that did the same thing again and again, but not too often, is
released by whatever else it does. The lake keeps this in one file for each partition, one line a
change:

    <folder>/_quarantine-2.jsonl

Taking out and counting again are exact as far as the store holds a session's events: the last
`session_cap`, for `session_ttl` after the latest. A last value is not undone, and the moment of the
aggregates stays where it was. Impressions and searches are not scored: a page full of them is no
haste. Each bot session counts until it is found, and one that stays below the limits always does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

PLACE_OF_NOW = (2**63, 0)  # after all


@dataclass(frozen=True, slots=True)
class Mark:
    """A session that went into quarantine, or was released. place: of this in the live log.

    velocity, repetition: its scores as it went in.
    """

    place: tuple[int, int]
    session_id: str
    released: bool = False
    velocity: float | None = None
    repetition: int | None = None


def marks_path(folder: Path, partition: int | str) -> Path:
    return folder / f"_quarantine-{partition}.jsonl"


def marks(path: Path) -> list[Mark]:
    """The changes in a file, none if there is no file. Raises OSError."""
    return list(_marks(path)) if path.exists() else []


def left_out(
    folder: Path, partition: int | str = "*", until: tuple[int, int] = PLACE_OF_NOW
) -> set[str]:
    """The sessions in quarantine, of one partition of a lake or of all.

    until: a place in the live log; as it was there. Raises OSError.
    """
    paths = folder.glob(marks_path(Path(), partition).name)
    found = sorted((mark for path in paths for mark in _marks(path)), key=lambda mark: mark.place)
    released = {mark.session_id: mark.released for mark in found if mark.place <= until}
    return {session for session, free in released.items() if not free}


def mended(path: Path) -> int:
    """End a file with a whole line, whatever a writer who was killed or an editor left there;
    returns its size then. Raises OSError."""
    with path.open("r+b") as file:
        rest = file.read().rpartition(b"\n")[2]
        if _is_whole(rest):
            file.write(b"\n")
        else:
            file.truncate(file.tell() - len(rest))
    return path.stat().st_size


def _is_whole(line: bytes) -> bool:
    """Whether a line without its end is all of a mark: what begins an object is no JSON itself."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _marks(path: Path) -> Iterator[Mark]:
    *lines, rest = path.read_bytes().split(b"\n")
    if _is_whole(rest):
        lines.append(rest)
    for number, line in enumerate(lines, 1):
        try:
            fields = orjson.loads(line)
            yield Mark(**{**fields, "place": tuple(fields["place"])})
        except (ValueError, TypeError, KeyError) as error:
            remedy = "mend or remove it; without it, sessions in quarantine are trained on"
            raise OSError(f"{path} line {number} is no mark: {error}; {remedy}") from error
