"""`serve` as a real process: several workers, an embedded Redis, and an orderly end of all."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import polars as pl
import pytest

from api import freshness_check
from api.serve import ServeError, serve
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.embedded import EmbeddedRedis
from recsys.events import InputError
from recsys.logs import load_log
from recsys.registry import Registry
from recsys.training import train
from tests.synthetic import small_config

PROGRAM = """
import sys
from pathlib import Path
from api.serve import serve
if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), port=0, OPTIONS))
"""
# Before its Redis runs, all processes of its group are told to end, and have the time to.
TERMINATED = """
import os, signal, time
import api.serve

find_binary = api.serve.EmbeddedRedis.start.__globals__["find_binary"]

def terminating():
    os.killpg(0, signal.SIGTERM)
    time.sleep(0.5)
    return find_binary()

api.serve.EmbeddedRedis.start.__globals__["find_binary"] = terminating
"""
FRESH = "fresh=True, "  # as the command is when it begins


@dataclass
class Process:
    """A server in a process of its own."""

    popen: subprocess.Popen[str]
    url: str
    first_line: str  # of its stdout
    folder: Path  # of its data

    def family(self, name: str = "") -> set[int]:
        """The pids of its supervisor, its workers, its reader of the live log and its Redis, or
        only of those whose name begins so."""
        found = descendants(self.popen.pid)
        ours = {pid for pid in found if b"resource_tracker" not in read(pid, "cmdline")}
        return {pid for pid in ours if read(pid, "comm").startswith(name.encode())}


def descendants(pid: int) -> set[int]:
    threads = [path.name for path in Path(f"/proc/{pid}/task").glob("*")]
    texts = [read(pid, f"task/{thread}/children") for thread in threads]
    children = {int(child) for text in texts for child in text.split()}
    return children.union(*map(descendants, children))


def read(pid: int, name: str) -> bytes:
    """A file that the kernel has of a process, empty where that is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def alive(pid: int) -> bool:
    return read(pid, "cmdline") != b""


def eventually(holds: Callable[[], bool], seconds: float = 30.0, pause: float = 0.02) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


@contextlib.contextmanager
def started(
    bundle: Bundle | None,
    folder: Path,
    options: str = "",
    temporary: Path | None = None,
    before: str = "",
    **environment: str,
) -> Iterator[Process]:
    """A server of a published bundle, on a free port. options: more arguments of `serve`, which
    has two workers by default. before: what its process does first.
    environment: more variables."""
    folder.mkdir(exist_ok=True)
    if bundle:
        Registry(folder / "bundles").publish(bundle)
    program = folder / "program.py"
    options = options if before else FRESH + options
    text = PROGRAM.replace("OPTIONS", options).replace("    sys.exit", f"{before}    sys.exit")
    program.write_text(text)
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(program), str(folder)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.getcwd(),
                "RECSYS_STORE_TIMEOUT": "5",  # not production's: this machine may be busy
                "TMPDIR": str(temporary or folder),  # a killed server cannot tidy up
                **environment,
            },
        ) as popen,
    ):
        assert popen.stdout is not None
        line = popen.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + (folder / "stderr").read_text()
        yield Process(popen, found[0], line, folder)
        popen.terminate()


@pytest.fixture(scope="module")
def shared(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One server for the tests that leave it running."""
    with started(bundle, tmp_path_factory.mktemp("serve")) as server:
        yield server


@pytest.fixture
def server(bundle: Bundle, tmp_path: Path) -> Iterator[Process]:
    """A server of one worker that the test may end."""
    with started(bundle, tmp_path, "workers=1") as server:
        yield server


def test_the_address_is_told(shared: Process) -> None:
    """The first line of stdout is the address, for people."""
    expected = f"Serving on {shared.url} (2 workers, this machine only)\n"
    assert shared.first_line == expected


def opened(pid: int) -> list[list[str]]:
    """The TCP sockets that a process has open, as /proc/net/tcp tells of them."""
    lines = [line.split() for line in read(pid, "net/tcp").decode().splitlines()[1:]]
    files = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return [line for line in lines if f"socket:[{line[9]}]" in files]


def listening(pid: int, port: int) -> set[str]:
    """The sockets by which a process listens on a port, as the kernel numbers them."""
    own = f":{port:04X}"
    return {line[9] for line in opened(pid) if line[1].endswith(own) and line[3] == "0A"}


def test_a_worker_listens_on_its_own_socket_alone(shared: Process) -> None:
    """The reader on none: a port is free as soon as whoever listened on it is gone."""
    port = httpx.URL(shared.url).port
    assert port is not None
    one, two = (listening(pid, port) for pid in shared.family("recsys-worker"))
    assert len(one) == len(two) == 1
    assert one != two
    (reader,) = shared.family("recsys-reader")
    assert listening(reader, port) == set()


def test_each_worker_has_as_many_connections(shared: Process) -> None:
    """Of those that clients keep: the kernel spreads them by chance only."""
    url, clients = httpx.URL(shared.url), set[str]()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(socket.create_connection((url.host, url.port)))
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: recsys\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            clients.add(f"0100007F:{client.getsockname()[1]:04X}")
        one, two = (
            sum(line[2] in clients for line in opened(pid))
            for pid in shared.family("recsys-worker")
        )
    assert one + two == 300
    assert abs(one - two) <= 6  # connections of other clients count as well


def test_read_your_clicks(shared: Process) -> None:
    """In no placement is a list older than the click before it, over both workers."""
    result = asyncio.run(freshness_check.check(shared.url, pairs=400, connections=16))
    assert (result["checked"], result["stale"]) == (400, 0), result["stale_example"]
    counts = {name: found["checked"] for name, found in result["placements"].items()}
    assert counts == dict.fromkeys(Config().placements, 100)


def test_the_check_can_fail(shared: Process) -> None:
    """Asking before clicking is found to be stale, in every placement."""
    broken = asyncio.run(
        freshness_check.check(shared.url, pairs=40, connections=4, break_order=True)
    )
    assert (broken["checked"], broken["stale"]) == (40, 40)
    assert all(found["stale"] == 10 for found in broken["placements"].values())


def test_everything_ends_on_sigterm(bundle: Bundle, tmp_path: Path) -> None:
    """SIGTERM ends workers, Redis, the reader of the log and who supervises, with status 0."""
    with started(bundle, tmp_path) as server:
        family = server.family()
        assert len(family) == 5
        server.popen.terminate()
        assert server.popen.wait(15) == 0
        assert eventually(lambda: not any(map(alive, family)))


def test_sigterm_of_all_while_it_starts(tmp_path: Path) -> None:
    """As an init system stops a service: status 0 and no traceback, however early it comes."""
    program = tmp_path / "program.py"
    program.write_text(TERMINATED + PROGRAM.replace("OPTIONS", FRESH + "workers=1"))
    command = [sys.executable, str(program), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("threads", ["", "2,1", "many"])
def test_any_number_of_threads_that_openmp_takes(
    bundle: Bundle, tmp_path: Path, threads: str
) -> None:
    """A nested list, an empty variable and nonsense are no reason not to serve."""
    with started(bundle, tmp_path, "workers=1", OMP_NUM_THREADS=threads) as server:
        assert httpx.get(f"{server.url}/health/ready", timeout=30).status_code == 200


def test_what_visitors_did_is_a_log_to_train_on(server: Process, tmp_path: Path) -> None:
    """What was accepted is in files when the server has ended, and training takes them."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for k in range(30):
            names = {"session_id": f"s{k % 5}", "user_id": f"u{k % 5}", "item_id": f"i{k % 7}"}
            event = {"type": "click", **names, "event_id": f"e{k}"}
            assert client.post("/v1/events", json={"events": [event]}).status_code == 202
        assert "recsys_log_lag_events" in client.get("/metrics").text
    server.popen.terminate()
    assert server.popen.wait(30) == 0
    log = load_log([tmp_path / "events"])
    assert sorted(log.frame["event_id"]) == sorted(f"e{k}" for k in range(30))
    assert log.rejected == {}
    assert set(train(log, small_config()).items.ids(range(7))) == {f"i{k}" for k in range(7)}


def test_who_has_worked_with_tables_before_can_serve(bundle: Bundle, tmp_path: Path) -> None:
    """As the demo does: the reader still writes files, and ends when it is told to."""
    before = "    import polars as pl\n    pl.DataFrame({'a': [1, 2]}).lazy().sort('a').collect()\n"
    with started(bundle, tmp_path, "workers=1", before=before) as server:
        event = {"type": "click", "session_id": "s", "item_id": "i1", "event_id": "e"}
        httpx.post(f"{server.url}/v1/events", json={"events": [event]}, timeout=30)
        server.popen.terminate()
        assert server.popen.wait(30) == 0
        assert load_log([tmp_path / "events"]).frame["event_id"].to_list() == ["e"]


def test_a_killed_reader_is_replaced(shared: Process) -> None:
    """The reader that dies is started again, and writes what came meanwhile."""
    (reader,) = shared.family("recsys-reader")
    os.kill(reader, signal.SIGKILL)
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        event = {"type": "click", "session_id": "s", "item_id": "i1", "event_id": "meanwhile"}
        assert client.post("/v1/events", json={"events": [event]}).status_code == 202
    assert eventually(lambda: len(shared.family("recsys-reader") - {reader}) == 1)

    def written() -> bool:
        files = (shared.folder / "events").glob("*/[!.]*.parquet")
        return any("meanwhile" in pl.read_parquet(path)["event_id"] for path in files)

    assert eventually(written, 60, pause=0.5)


def test_everything_ends_with_a_killed_parent(server: Process) -> None:
    """SIGKILL of the parent leaves neither workers nor Redis behind."""
    family = server.family()
    server.popen.kill()
    server.popen.wait()
    assert eventually(lambda: not any(map(alive, family)))


def test_metrics_of_a_killed_server_are_removed(
    shared: Process, bundle: Bundle, tmp_path: Path
) -> None:
    """The next start removes the folder a killed server left, and leaves that of a live one."""

    def folders() -> set[Path]:
        return set(shared.folder.glob("recsys-metrics-*"))

    live = folders()
    with started(bundle, tmp_path, "workers=1", temporary=shared.folder) as server:
        (left,) = folders() - live
        server.popen.kill()
        server.popen.wait()
    with started(bundle, tmp_path, "workers=1", temporary=shared.folder) as second:
        (own,) = folders() - live
        assert own != left
        assert folders() == live | {own}
        assert httpx.get(f"{second.url}/metrics").status_code == 200
        second.popen.terminate()
        second.popen.wait(15)
        assert folders() == live


def test_json(bundle: Bundle, tmp_path: Path) -> None:
    """With as_json stdout is one JSON object that says what is served, once it is; else stderr."""
    with started(bundle, tmp_path, "as_json=True") as server:
        told = json.loads(server.first_line)
        assert told == {
            "url": server.url,
            "workers": 2,
            "data_dir": str(tmp_path),
            "bundle": bundle.version,
            "redis": "embedded",
        }
        assert httpx.get(f"{told['url']}/health/ready").status_code == 200
        server.popen.terminate()
        assert server.popen.stdout is not None
        assert server.popen.stdout.read() == ""
    assert "Serving on http://127.0.0.1" in (tmp_path / "stderr").read_text()


def test_json_without_a_bundle(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    """Before anything was trained the bundle is null; a Redis is named by its URL."""
    options = f"as_json=True, workers=1, redis_url={redis_server.url!r}"
    with started(None, tmp_path, options) as server:
        told = json.loads(server.first_line)
    assert (told["bundle"], told["workers"], told["redis"]) == (None, 1, redis_server.url)
    assert "no bundle has been trained yet" in (tmp_path / "stderr").read_text()


def test_a_killed_worker_is_replaced(shared: Process) -> None:
    """A worker that dies is started again; the metrics go on."""
    victim = min(shared.family("recsys-worker"))
    os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: len(shared.family("recsys-worker") - {victim}) == 2)
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        assert eventually(lambda: "recsys_bundle_info" in client.get("/metrics").text)


def test_workers_killed_young_again_and_again_are_replaced(shared: Process) -> None:
    """That somebody kills them is no sign that they cannot start."""
    for _ in range(4):
        victim = min(shared.family("recsys-worker"))
        os.kill(victim, signal.SIGKILL)
        two = partial(lambda gone: len(shared.family("recsys-worker") - {gone}) == 2, victim)
        assert eventually(two)
    assert shared.popen.poll() is None


def test_a_killed_supervisor_is_replaced(shared: Process) -> None:
    """Its workers and its reader end with it, and there are as many new ones."""
    before = shared.family("recsys-")
    assert len(before) == 4
    (supervisor,) = shared.family("recsys-supervis")
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: not any(map(alive, before)), 30)
    assert eventually(lambda: len(shared.family("recsys-")) == 4, 30)
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        assert client.get("/health/ready").status_code == 200
        event = {"type": "click", "session_id": "anew", "item_id": "i1"}
        assert client.post("/v1/events", json={"events": [event]}).status_code == 202


def test_accepted_events_survive_a_killed_redis(shared: Process) -> None:
    """Every event acknowledged while Redis is killed again and again is there afterwards."""
    accepted = 0
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        for kill in range(3):
            for k in range(60):
                event = {"type": "click", "session_id": "s", "item_id": f"i{k % 20}"}
                response = client.post("/v1/events", json={"events": [event]})
                assert response.status_code in (202, 503)
                accepted += response.status_code == 202
                if k == 30:
                    (redis,) = shared.family() - shared.family("recsys-")
                    os.kill(redis, signal.SIGKILL)
            assert accepted > 30 * kill
            assert eventually(lambda: client.get("/v1/sessions/s").status_code == 200)
        assert client.get("/v1/sessions/s").json()["version"] >= accepted


def test_a_port_in_use_is_explained(tmp_path: Path) -> None:
    """The error names the port and another one to try; nothing was started."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=rf"port {port} on 127.0.0.1 is in use.*--port"):
            serve(tmp_path, port=port)
    assert not (tmp_path / "redis").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_are_not_served(tmp_path: Path, host: str) -> None:
    """Without access keys only loopback addresses are listened on."""
    with pytest.raises(ServeError, match="this machine only"):
        serve(tmp_path, host=host)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:pw@127.0.0.1:1/0", r"redis://:\*\*\*@127.0.0.1:1/0: Redis cannot be reached"),
        ("localhost:6379", "is not a Redis URL; expected redis://HOST"),
    ],
)
def test_a_redis_url_that_does_not_work_is_explained(
    tmp_path: Path, url: str, message: str
) -> None:
    """The error names the URL, without its password, and what to do."""
    with pytest.raises(InputError, match=message):
        serve(tmp_path, port=0, redis_url=url)


def test_impossible_numbers_are_explained(tmp_path: Path) -> None:
    """No workers and ports that do not exist are refused by name."""
    with pytest.raises(ServeError, match="workers: at least 1"):
        serve(tmp_path, workers=0)
    with pytest.raises(ServeError, match="port: must be 0 to 65535"):
        serve(tmp_path, port=99_999)
