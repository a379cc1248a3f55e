"""Append-only files of Redis: the end of one is made whole before a server reads it again.

What a script writes stands in the file as one transaction. A server that is killed while it writes
may leave the beginning of it. The next one cuts off a command that is not whole, but where that
stands inside of a transaction it leaves what comes before, from MULTI on, and appends behind it:
the one after that executes both at the next EXEC, and events that were never acknowledged are
there, beside the same ones sent again. (Valkey 8.1 and Redis 7: in aof.c ``valid_up_to`` moves on
with each queued command.)
"""

import logging
import mmap
import os
from pathlib import Path

logger = logging.getLogger("recsys.embedded")

FOLDER = "appendonlydir"
MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


def mend(directory: Path) -> int:
    """Cut the unfinished transaction off the newest file of a server that does not run.

    Returns how many bytes that was. Raises OSError.
    """
    paths = sorted((directory / FOLDER).glob("*.incr.aof"), key=_number)
    # One that is empty was begun by a rewrite that came to nothing: the server goes on in the last.
    paths = [path for path in paths if path.stat().st_size]
    if not paths:
        return 0
    with paths[-1].open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # As a rule the last transaction has its end, and then there is nothing to look for.
            if data.rfind(MULTI) <= data.rfind(EXEC):
                return 0
            end, size = _unfinished(data), len(data)
        if end == size:
            return 0
        file.truncate(end)
        os.fsync(file.fileno())
    logger.error("%s ended within a transaction; %d bytes are cut off", paths[-1], size - end)
    return size - end


def _unfinished(data: mmap.mmap) -> int:
    """Where the transaction that has no end begins; the size where all have one, or where what
    stands there is something else than cut off: that is for the server to say."""
    at, begun = 0, -1
    while at < len(data):
        if data[at : at + 1] == b"#":  # an annotation, a line
            at = data.find(b"\n", at) + 1 or len(data)
            continue
        command = data[at : at + len(MULTI)]
        try:
            after = _after(data, at)
        except ValueError:
            return len(data)
        if after > len(data):
            break
        if command == MULTI and begun < 0:
            begun = at
        elif command.startswith(EXEC):
            begun = -1
        at = after
    return begun if begun >= 0 else len(data)


def _after(data: mmap.mmap, at: int) -> int:
    """Where the command at a place ends; beyond the data if it does not. Raises ValueError."""
    beyond = len(data) + 1
    end = data.find(b"\r\n", at)
    if end < 0:
        return beyond
    count, at = _length(data[at:end], b"*"), end + 2
    for _ in range(count):
        end = data.find(b"\r\n", at)
        if end < 0:
            return beyond
        at = end + 2 + _length(data[at:end], b"$") + 2
        if at > len(data):
            return beyond
    return at


def _length(line: bytes, kind: bytes) -> int:
    if not line.startswith(kind):
        raise ValueError(line)
    return int(line[1:])


def _number(path: Path) -> int:
    """Of ``appendonly.aof.12.incr.aof``."""
    number = path.name.split(".")[-3]
    return int(number) if number.isdigit() else -1
