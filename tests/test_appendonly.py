"""A transaction that a killed server did not finish never happened, whenever that is noticed."""

import shutil
from pathlib import Path

import pytest
from redis import Redis

from recsys.appendonly import EXEC, MULTI, mend
from recsys.embedded import EmbeddedRedis

SCRIPT = "for k = 1, 3 do redis.call('SET', KEYS[1] .. k, ARGV[1]) end"


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def put(folder: Path, content: bytes) -> Path:
    path = folder / "appendonlydir" / "appendonly.aof.2.incr.aof"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


WHOLE = command(b"SET", b"a", b"1") + MULTI + command(b"SET", b"b", b"\r\n2\r\n") + EXEC
LAST = MULTI + command(b"SET", b"c", b"3") + command(b"DEL", b"a") + EXEC


@pytest.mark.parametrize("cut", range(1, len(LAST)))
def test_an_unfinished_transaction_is_cut_off(tmp_path: Path, cut: int) -> None:
    """Wherever the file ends within it."""
    path = put(tmp_path, WHOLE + LAST[:cut])
    whole = cut if cut < len(MULTI) else 0  # of a single command the server takes care
    assert mend(tmp_path) == cut - whole
    assert path.read_bytes() == WHOLE + LAST[:whole]
    assert mend(tmp_path) == 0


def test_a_rewrite_that_came_to_nothing_hides_nothing(tmp_path: Path) -> None:
    """It leaves an empty file of a higher number, and the server goes on in the one before."""
    path = put(tmp_path, WHOLE + LAST[:-1])
    path.with_name("appendonly.aof.3.incr.aof").touch()
    assert mend(tmp_path) == len(LAST) - 1
    assert path.read_bytes() == WHOLE


def test_what_is_whole_stays(tmp_path: Path) -> None:
    """So does a value that looks like the beginning of a transaction, what is no such file at all,
    and the file before the newest one."""
    odd = command(b"SET", b"x", b"before " + MULTI + b" after")
    for content in (b"", WHOLE, WHOLE + LAST, WHOLE + odd, odd, b"#TS:1\r\n" + WHOLE + odd):
        path = put(tmp_path, content)
        assert mend(tmp_path) == 0
        assert path.read_bytes() == content
    for damaged in (WHOLE + b"garbage\r\n" + MULTI, MULTI + b"$3\r\nSET\r\n"):
        path = put(tmp_path, damaged)
        assert mend(tmp_path) == 0
        assert path.read_bytes() == damaged
    earlier = path.with_name("appendonly.aof.1.incr.aof")
    earlier.write_bytes(MULTI)
    put(tmp_path, WHOLE)
    assert mend(tmp_path) == 0
    assert earlier.read_bytes() == MULTI
    shutil.rmtree(tmp_path / "appendonlydir")
    assert mend(tmp_path) == 0


def test_nothing_of_it_comes_back(tmp_path: Path) -> None:
    """Not with the next transaction, when the server is started once more: what a killed server had
    begun to write is gone, and what came later stands."""
    with EmbeddedRedis.start(tmp_path) as server:
        Redis.from_url(server.url).eval(SCRIPT, 1, "before", "x")
    (path,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    content = path.read_bytes()
    begun = content[content.rindex(MULTI) : -len(EXEC)].replace(b"before", b"ghosts")
    path.write_bytes(content + begun[:-3])
    for _ in range(2):
        with EmbeddedRedis.start(tmp_path) as server:
            redis = Redis.from_url(server.url)
            redis.eval(SCRIPT, 1, "later", "y")
            assert redis.keys("ghosts*") == []
            assert redis.mget("before1", "later3") == [b"x", b"y"]
