"""Stream: the live log becomes the batch log.

Accepted events wait in the partitions of the live log until a file of the lake holds them, and only
then is the log cut. Who is killed leaves behind what was delivered and not yet confirmed; the next
one to write that partition gets it again, and the files tell what they hold of it already.
"""

import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from msgspec import structs
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from recsys import backfill
from recsys.events import decode
from recsys.lake import Entry, Lake
from recsys.quarantine import Mark
from recsys.store import (
    LIBRARY,
    MOST_PARTITIONS,
    NO_LIBRARY,
    Chunk,
    StoreConfig,
    StoreUnavailable,
    check_url,
    fill_arguments,
    log_key,
    place_of,
    prefix,
)

logger = logging.getLogger("recsys.stream")

GROUP = "lake"  # the consumer group; each partition is one consumer of it, whoever reads it
READ = 500  # entries asked for at a time: servers wait for Redis meanwhile
CONFIRMED = 200  # places told at a time, likewise
FULL = 50_000  # entries of a partition after which they are written without waiting any longer
PAUSE = 0.05  # seconds between looks at an empty log
RETRY = 1.0  # seconds after a failure, or while others write all partitions
ALIVE = 10.0  # seconds after which a reader that said nothing is thought gone
TIMEOUT = 5.0  # seconds for one call of Redis
SCANNED = 500  # items of the catalogue asked for at a time
FILL_FOR = 0.2  # seconds of filling in between two looks at the log

# Of an entry of the log; see store.lua.
ENTRY_FIELDS = frozenset({b"e", b"u", b"t", b"q", b"velocity", b"repetition", b"r"})

# KEYS: streams. Returns how many there are up to the last one that exists.
EXISTING = """
for at = #KEYS, 1, -1 do
  if redis.call('EXISTS', KEYS[at]) == 1 then return at end
end
return 0
"""

# KEYS: the log's name, a partition. ARGV: the name it had, the group, the first place to keep, and
# the places that a file holds. A log that began anew meanwhile is left alone.
CONFIRM = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('XACK', KEYS[2], ARGV[2], unpack(ARGV, 4))
  redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3])
end
"""


class NewerLogError(RuntimeError):
    """A newer version wrote into the live log what this one does not know."""

    def __init__(self, place: bytes, what: str) -> None:
        super().__init__(
            f"entry {place.decode()} of the live log was written by a newer version ({what}): "
            "update this reader; what it cannot read stays in the log"
        )


@dataclass
class _Partition:
    """What was delivered of a partition and is in no file yet.

    again: what was delivered to whoever read it before comes first, from ``place`` on. since: of
    the oldest, monotonic seconds. filling: chunks of what its files hold from before aggregates
    were declared.
    """

    again: bool = True
    place: str = "0-0"
    newer: NewerLogError | None = None
    entries: list[Entry | Mark] = field(default_factory=list)
    since: float = 0.0
    filling: Iterator[Chunk] | None = None


class Stream:
    """One reader of the live log. Several share its partitions.

    every: seconds after which what was read is written, which is what a crash delays, and what a
    file is written anew for. written: events that this reader made durable.
    """

    def __init__(self, url: str, lake: Lake, config: StoreConfig, every: float = 10.0) -> None:
        """Connects on first use. Raises StoreUrlError."""
        self.config, self.lake, self.every = config, lake, every
        # Never tried twice: what was delivered to an answer that was lost would be passed over.
        once = Retry(NoBackoff(), 0)
        self.redis = Redis.from_url(check_url(url), socket_timeout=TIMEOUT, retry=once)
        self.name = secrets.token_hex(8)
        self.written = 0
        self._confirm = self.redis.register_script(CONFIRM)
        self._existing = self.redis.register_script(EXISTING)
        self._partitions: dict[int, _Partition] = {}
        self._balanced = -math.inf
        self._log = ""

    def run(self, stop: threading.Event, told: Callable[["Stream"], None] | None = None) -> None:
        """Read and write until told to stop; then write what was read. Redis may come and go.

        told: called after each turn. Raises NewerLogError, once what was read before is written and
        the partitions are left to readers that know more.
        """
        failing = False
        while not stop.is_set():
            try:
                read = self.turn()
            except NewerLogError:
                self._close()
                raise
            except (RedisError, OSError) as error:
                if not failing:
                    logger.error("the live log is not read: %s; trying again", error)
                failing = True
                self._forget()
                stop.wait(RETRY)
                continue
            if failing:
                logger.error("the live log is read again")
            failing = False
            if told:
                told(self)
            if read < READ:  # as few come again the sooner the more often Redis is asked
                stop.wait(PAUSE if self._partitions else RETRY)
        self._close()

    def _close(self) -> None:
        try:
            self.close()
        except (RedisError, OSError) as error:
            logger.error("what was read last stays in the live log: %s", error)

    def drain(self) -> None:
        """Read until nothing is left, write it, fill in what is new, and return.

        Raises StoreUnavailable, OSError, and NewerLogError once what came before is written.
        """
        try:
            try:
                while self.turn(balance=False):
                    pass
            except NewerLogError:
                self.close()
                raise
            self._look_what_to_fill()
            while any(partition.filling for partition in self._partitions.values()):
                for partition in self._partitions.values():
                    self._fill(partition)
            written = self.lake.held
            self.close()
            others = [
                number
                for number in range(MOST_PARTITIONS)
                if number not in written and self.redis.xlen(log_key(self.config, number))
            ]
        except RedisError as error:
            raise StoreUnavailable(str(error)) from error
        if others:
            raise OSError(
                f"another process writes {len(others)} of the log's partitions into "
                f"{self.lake.folder}, and will write what is left in them"
            )

    def check(self) -> None:
        """Return if Redis answers. Raises StoreUnavailable."""
        try:
            self.redis.ping()
        except RedisError as error:
            raise StoreUnavailable(str(error)) from error

    def catalogue(self) -> Iterator[tuple[str, bytes]]:
        """Every item there is, with what is known of it as JSON; some perhaps twice. Raises
        StoreUnavailable."""
        cursor = b"0"
        while True:
            try:
                _, cursor, pairs = self._call("items", cursor, SCANNED)
            except RedisError as error:
                raise StoreUnavailable(str(error)) from error
            for item_id, known in zip(pairs[::2], pairs[1::2], strict=True):
                if known:  # not of one that was deleted
                    yield item_id.decode(), known
            if cursor == b"0":
                return

    def quality(self, version: str) -> tuple[int, int]:
        """A bundle's events that were scored, and hits among them. Raises StoreUnavailable."""
        try:
            scored, hits = self._call("quality", version)
        except RedisError as error:
            raise StoreUnavailable(str(error)) from error
        return scored, hits

    def turn(self, balance: bool = True) -> int:
        """Read what has come, write what is due; returns how many entries came.

        balance: leave other readers their share of the partitions. Raises RedisError, OSError, and
        NewerLogError once all partitions were looked at.
        """
        self._take_partitions(balance)
        read = 0
        for number, partition in self._partitions.items():
            read += self._read(number, partition)
            due = time.monotonic() - partition.since >= self.every
            if partition.entries and (due or len(partition.entries) >= FULL):
                self._write(number, partition)
            read += self._fill(partition)
        for partition in self._partitions.values():
            if partition.newer:
                raise partition.newer
        return read

    def close(self) -> None:
        """Write what was read and leave the partitions to others. Raises RedisError, OSError."""
        for number in list(self._partitions):
            self._leave(number)
        self.redis.zrem(log_key(self.config, "readers"), self.name)
        self.redis.close()

    def _call(self, operation: str, *arguments: Any) -> Any:
        """What an operation of store.lua answers. Raises RedisError."""
        function, asked = LIBRARY.function(operation), (prefix(self.config), operation, *arguments)
        try:
            return self.redis.fcall(function, 1, *asked)
        except ResponseError as error:
            if NO_LIBRARY not in str(error):
                raise
        try:
            self.redis.function_load(LIBRARY.code, replace=True)
        except ResponseError:  # as in `Store`
            return self.redis.eval(LIBRARY.script, 1, *asked)
        return self.redis.fcall(function, 1, *asked)

    def _leave(self, number: int) -> None:
        """Write what was read of a partition and let another have it."""
        if self._partitions[number].entries:
            self._write(number, self._partitions[number])
        del self._partitions[number]
        self.lake.release(number)

    def _take_partitions(self, balance: bool) -> None:
        """Look every second which partitions nobody writes; give up those beyond a fair share."""
        now = time.monotonic()
        if now - self._balanced < 1.0:
            return
        self._name_log()
        # As many as ever were: of those that are used no more the rest is still to be written.
        streams = [log_key(self.config, number) for number in range(MOST_PARTITIONS)]
        used: Any = self._existing(keys=streams)
        count = max(self.config.log_partitions, used)
        share = math.ceil(count / self._readers()) if balance else count
        for number in list(self._partitions)[share:]:
            self._leave(number)
        for number in range(count):
            room = len(self._partitions) < share and number not in self._partitions
            if room and self.lake.take(number):
                self._partitions[number] = _Partition()
        self._look_what_to_fill()
        self._balanced = now

    def _name_log(self) -> None:
        """Say that from now on the log is cut by its readers only, and learn its name.

        The name goes with Redis's data: places in a log that began anew may lie before those that
        files reach.
        """
        key = log_key(self.config, "reading")
        name: Any = self.redis.get(key)
        if name is None:
            self.redis.set(key, secrets.token_hex(8), nx=True)
            name = self.redis.get(key)
        self._log = name.decode()

    def _readers(self) -> int:
        """How many share the partitions, this one included."""
        readers = log_key(self.config, "readers")
        clock: Any = self.redis.time()  # that of all readers
        try:
            self.redis.zadd(readers, {self.name: clock[0]})
        except OutOfMemoryError:
            # What is written is what makes room.
            logger.error("Redis is out of memory; reading on")
        self.redis.zremrangebyscore(readers, "-inf", clock[0] - ALIVE)
        self.redis.zremrangebyscore(readers, clock[0] + ALIVE, "+inf")
        return max(1, int(self.redis.zcard(readers)))

    def _read(self, number: int, partition: _Partition) -> int:
        key = log_key(self.config, number)
        start = partition.place if partition.again else ">"
        try:
            reply: Any = self.redis.xreadgroup(
                GROUP, f"partition-{number}", {key: start}, count=READ
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # The first reader, or Redis has lost its data, and then the log has another name too.
            known = self._log
            self._name_log()
            if known != self._log:
                self._put_into_files(number, partition.entries, known)
            partition.entries = []
            with contextlib.suppress(ResponseError):  # another reader was faster
                self.redis.xgroup_create(key, GROUP, id="0", mkstream=True)
            return 1  # what there is has yet to be asked for
        found = [pair for _, pairs in reply for pair in pairs]
        if partition.again and not found:
            partition.again = False
            return 1  # likewise
        if partition.again:
            partition.place = found[-1][0].decode()
        entries: list[Entry | Mark] = []
        try:
            entries += (_entry(place, fields) for place, fields in found if fields)
        except NewerLogError as error:
            partition.newer = error
        if gone := [place for place, fields in found if not fields]:
            logger.error("%d events were cut from the live log before a file held them", len(gone))
            self.redis.xack(key, GROUP, *gone)
        if entries and not partition.entries:
            partition.since = time.monotonic()
        partition.entries += entries
        return len(entries)

    def _write(self, number: int, partition: _Partition) -> None:
        """Into files, and then out of the log."""
        entries, key = partition.entries, log_key(self.config, number)
        self._put_into_files(number, entries, self._log)
        names = [f"{milliseconds}-{number}" for milliseconds, number in (e.place for e in entries)]
        partition.entries = []
        for at in range(0, len(names), CONFIRMED):
            part = names[at : at + CONFIRMED]
            self._confirm(
                keys=[log_key(self.config, "reading"), key],
                args=[self._log, GROUP, _after(part[-1]), *part],
            )

    def _put_into_files(self, number: int, entries: list[Entry | Mark], log: str) -> None:
        # Marks first: whoever reads the files meanwhile takes no session in that is to be left out.
        self.lake.mark(number, [entry for entry in entries if isinstance(entry, Mark)])
        events = [entry for entry in entries if isinstance(entry, Entry)]
        self.written += self.lake.add(number, events, log)

    def _look_what_to_fill(self) -> None:
        """Begin to fill in aggregates that were declared, once all from before is in files."""
        if not self._partitions:
            return
        told = self._call("unfilled", *self._partitions)
        for number, wanted in backfill.wanted(told).items():
            partition, key = self._partitions[number], log_key(self.config, number)
            if partition.filling:
                continue
            if partition.entries:
                self._write(number, partition)
            after = "{}-{}".format(*max(one.after for one in wanted))
            if not self.redis.xrange(key, "-", after, count=1):
                folder, ttl = self.lake.folder, self.config.session_ttl
                partition.filling = backfill.chunks(folder, number, wanted, ttl)

    def _fill(self, partition: _Partition) -> int:
        """Fill in for a while; returns how many chunks were."""
        until, filled = time.monotonic() + FILL_FOR, 0
        while partition.filling:
            chunk = next(partition.filling, None)
            if chunk is None:
                partition.filling = None
                break
            arguments = fill_arguments(chunk, self.config)
            self._call("fill", *arguments)
            filled += 1
            if time.monotonic() >= until:
                break
        return filled

    def _forget(self) -> None:
        """What was read is delivered again: an answer may have been lost on its way."""
        self.lake.look_again()
        for number in list(self._partitions):
            self._partitions[number] = _Partition()


def _after(place: str) -> str:
    """The place that comes next."""
    milliseconds, number = place_of(place)
    return f"{milliseconds}-{number + 1}"


def _entry(text: bytes, fields: dict[bytes, bytes]) -> Entry | Mark:
    """Raises NewerLogError."""
    place = place_of(text)
    if beyond := fields.keys() - ENTRY_FIELDS:
        raise NewerLogError(text, ", ".join(sorted(name.decode() for name in beyond)))
    if b"q" in fields:
        velocity, repetition = float(fields[b"velocity"]), int(fields[b"repetition"])
        return Mark(place, fields[b"q"].decode(), velocity=velocity, repetition=repetition)
    if b"r" in fields:
        return Mark(place, fields[b"r"].decode(), released=True)
    user = fields.get(b"u", b"").decode() or None
    try:
        event = decode(fields[b"e"])
    except TypeError as error:
        raise NewerLogError(text, str(error)) from error
    if b"t" in fields:  # an entry of before terms went with the event
        event = structs.replace(event, terms=orjson.loads(fields[b"t"]))
    return Entry(place, event, user)
