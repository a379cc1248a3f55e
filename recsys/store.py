"""Store: sessions, users' live events, de-duplication and the live log, in Redis.

Every key of an engine carries its namespace as the hash tag: ``{recsys}:session:<id>:events``. The
functions of ``store.lua``, which names all keys, may therefore touch a session, its user and the
log atomically in one round trip, and a Redis Cluster holds the whole engine on one shard; several
engines are several namespaces.
"""

import asyncio
import hashlib
import math
import os
import re
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from hiredis import ProtocolError, PushNotification, Reader, ReplyError, pack_command
from msgspec import Struct, structs
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from recsys import items
from recsys.events import LOG_ONLY_TYPES, Event, InputError, decode_known, encode, new_id
from recsys.probation import Counts

CODE = Path(__file__).with_name("store.lua").read_text()
# Operations that write nothing, and those that only make room: a Redis that takes no writes, or has
# no memory left, still executes them.
READ_ONLY = {"read", "seen", "rows", "follow", "unfilled", "item", "items", "follow_items", "lag"}
READ_ONLY |= {"quality", "probation", "quarantined"}
MAKE_ROOM = {"forget", "sweep"}
SCHEMES = ("redis", "rediss", "unix")
DOWN_FOR = 1.0  # seconds during which a store that failed is not asked again
MOST_PARTITIONS = 64  # of the live log: readers look for so many
QUALITY_TTL = 30 * 24 * 3600  # seconds that figures of a bundle's live quality are kept
TURNS = 5  # looks at the oldest call within the time limit
MORE = object()  # an answer that is not whole yet
# What Redis says begins so while it takes no writes: its disk, its replicas or its memory fail it,
# or it is a replica.
READS_ONLY = ("MISCONF", "NOREPLICAS", "OOM", "READONLY")
# What it says, in other words or none at all, to who calls a function.
NO_LIBRARY = "Function not found"
NO_MEMORY = "allow-oom flag is not set on the function, can not run it"
NO_FUNCTIONS = re.compile(r"ERR unknown command ['`]FCALL['`]")  # quoted so from 7 on, and before


@dataclass(frozen=True)
class Library:
    """What Redis is told once, and keeps with its data. name: another one for other code, so that
    versions of it may stand side by side. script: the same for one call, for a Redis that takes no
    writes: to be told a library is one."""

    name: str
    code: str
    script: str

    @classmethod
    def of(cls, code: str) -> "Library":
        """Of a chunk of Lua that returns what is called. It is run at the first call: only then has
        a library what Lua brings along, ``math`` for one."""
        name = "recsys_" + hashlib.sha1(code.encode(), usedforsecurity=False).hexdigest()
        return cls(
            name,
            f"""#!lua name={name}
local function make()
{code}
end
local call
local function run(keys, arguments)
  call = call or make()
  return call(keys, arguments)
end
redis.register_function('{name}', run)
redis.register_function{{
  function_name='{name}_read', callback=run, flags={{'no-writes'}}
}}
redis.register_function{{
  function_name='{name}_room', callback=run, flags={{'allow-oom'}}
}}
""",
            f"local function make()\n{code}\nend\nreturn make()(KEYS, ARGV)",
        )

    def function(self, operation: str) -> str:
        """The function that an operation is called by, with the prefix as its key, the operation's
        name and arguments."""
        if operation in READ_ONLY:
            return f"{self.name}_read"
        return f"{self.name}_room" if operation in MAKE_ROOM else self.name


LIBRARY = Library.of(CODE)


@dataclass(frozen=True)
class StoreConfig:
    """What a deployment may set about its live data."""

    namespace: str = "recsys"
    session_cap: int = 200  # last events kept of a session; the fold uses fewer
    user_cap: int = 400  # last events kept of a user, across sessions
    session_ttl: int = 24 * 3600  # seconds after the last event
    user_ttl: int = 30 * 24 * 3600  # seconds after the last event
    dedup_ttl: int = 7 * 24 * 3600  # seconds an event id is remembered
    log_partitions: int = 4  # of the live log, so that several can read it
    # Events kept in the live log while nobody reads it, approximately; what is read stays until a
    # file holds it.
    log_maxlen: int = 5_000_000
    # A session of more is put into quarantine, see recsys.quarantine. Of 21,210 sessions of clicks
    # (RSC15) the fastest reached 17, and one came to an item more than 20 times. Where each look at
    # a picture is an event, more is usual: of 7,612 sessions (trivago) the fastest reached 105, and
    # 9 % repeat themselves more. Baskets of hundreds of lines told at once are fast as well.
    max_velocity: float = 300.0  # events that arrived, each worth half after a minute
    max_repetition: int = 20  # events of one item
    # Events that are all of one type and one item, and no others; until it does something else. Of
    # the same sessions of clicks .6 % have more, of 186,670 of Diginetica .2 %.
    max_alike: int = 4
    timeout: float = 0.25  # seconds for one round trip

    def __post_init__(self) -> None:
        if not 1 <= self.log_partitions <= MOST_PARTITIONS:
            raise InputError(f"log_partitions: must be 1 to {MOST_PARTITIONS}")
        if not self.namespace or set("{}") & set(self.namespace):
            raise InputError(f"namespace: {self.namespace!r} must be non-empty, without braces")


class Appended(Struct, frozen=True):
    """What became of a batch. versions: of every session named in it, duplicates included.

    quarantined: sessions that it brought into quarantine.
    """

    accepted: int
    duplicates: int
    versions: dict[str, int]
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A session in quarantine. since: Unix seconds; velocity, repetition: its scores when it was
    last beyond a limit; reason: which that was: velocity, repetition or alike."""

    session_id: str
    since: float
    velocity: float
    repetition: int
    reason: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of the rows of aggregates since a place in their stream; see store.lua.

    moment: Unix seconds of the latest event. cut: there were more, but they are gone. entries: a
    place, and names and values in turn.
    """

    epoch: str
    moment: float
    cut: bool
    entries: list[tuple[bytes, list[bytes]]]


# Items as they became, see store.lua: a place, and field names and values in turn. The first stands
# at the place asked for and is bare.
ItemChanges = list[tuple[bytes, list[bytes]]]


class Live(Struct, frozen=True):
    """What Redis holds of a visitor, in order of arrival. version 0: an unknown session.

    own: rows of the aggregates of the session and its user. changes: of the others, items: of the
    catalogue, if asked for.
    """

    version: int = 0
    user_id: str | None = None
    events: list[Event] = []
    user_events: list[Event] = []
    own: dict[str, bytes] = {}
    changes: Changes | None = None
    items: ItemChanges = []


@dataclass(frozen=True, slots=True)
class Seen:
    """How the rows of aggregates stand: epoch and moment as in Changes, place in their stream."""

    epoch: str
    moment: float
    place: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of what was before an aggregate was declared, to be filled in.

    id: of the aggregate. source: "base", or a partition of the log. number: from 0. last: of the
    source. moment: Unix seconds of its latest event. rows: keys and rows, see store.lua. anew: make
    mirrors read all rows anew, once this is in.
    """

    id: str
    source: str
    number: int
    last: bool
    moment: float
    rows: Sequence[tuple[bytes, bytes]] = ()
    events: Sequence[Event] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Lag:
    """Events of the live log that are in no file yet. oldest: Unix seconds of the first of them."""

    events: int
    oldest: float | None


class StoreUnavailable(Exception):  # noqa: N818  # a state of the world, like KeyboardInterrupt
    """Redis cannot be reached, or does not take writes."""


class StoreRefusal(StoreUnavailable):
    """Redis answers, but refuses; the text has its words."""


class NoLibrary(Exception):  # noqa: N818  # no error: it is to be told the library
    """Redis does not know the library."""


class StoreUrlError(InputError):
    """The text given as a Redis URL is none."""


class Store:
    """One engine's live data. Every method is one round trip and raises StoreUnavailable."""

    def __init__(self, url: str, config: StoreConfig | None = None) -> None:
        """Connects on first use. Raises StoreUrlError."""
        self.config = config or StoreConfig()
        self._link = _Link(check_url(url), self.config.timeout)
        self._prefix = prefix(self.config)

    async def append(self, events: Sequence[Event], now: float | None = None) -> Appended:
        """Accept a batch, all or nothing; an ``event_id`` seen before counts as a duplicate.

        Events without an ``event_id`` get one; being new, it need not be remembered. Terms are what
        the catalogue has now, whatever events say themselves. now: Unix seconds of its arrival, by
        default the clock's.
        """
        config = self.config
        arguments: list[Any] = [
            config.session_cap,
            config.user_cap,
            config.session_ttl,
            config.user_ttl,
            config.dedup_ttl,
            max(1, config.log_maxlen // config.log_partitions),
            config.max_velocity,
            config.max_repetition,
            config.max_alike,
            time.time() if now is None else now,
        ]
        for event in events:
            named = event
            if event.terms or not event.event_id:
                id_ = event.event_id or new_id()
                named = structs.replace(event, event_id=id_, terms={})
            arguments += (
                int(bool(event.event_id)),
                *_counted(named),
                int(event.type in LOG_ONLY_TYPES),
                partition_of(event.session_id, config),
                encode(named),
            )
        accepted, duplicates, quarantined, *versions = await self._run(
            "append", arguments, at_once=True
        )
        sessions = [session.decode() for session in versions[::2]]
        named_versions = dict(zip(sessions, versions[1::2], strict=True))
        return Appended(accepted, duplicates, named_versions, quarantined)

    async def read(
        self,
        session_id: str | None,
        user_id: str | None,
        place: str = "",
        most: int = 1000,
        items_place: str = "",
        items_most: int = 1000,
    ) -> Live:
        """A visitor's live data; the user's is that of ``user_id``, else of the session's user.

        place: in the stream of changes; those after it are read as well, not more than ``most``.
        items_place, items_most: likewise of items.
        """
        if not session_id and not user_id and not place and not items_place:
            return Live()
        version, user, events, user_events, own, changes, of_items = await self._run(
            "read", [session_id or "", user_id or "", place, most, items_place, items_most]
        )
        return Live(
            version,
            user.decode() or None,
            decode_known(events),
            decode_known(user_events),
            {name.decode(): row for name, row in _pairs(own)},
            _changes(changes) if changes else None,
            of_items,
        )

    async def declare(self, definitions: Sequence[bytes]) -> None:
        """Keep these aggregates and no others; `aggregates.definition` of each as JSON."""
        await self._run("declare", [os.urandom(8).hex(), MOST_PARTITIONS, *definitions])

    async def fill(self, chunk: Chunk) -> int:
        """Fill a chunk in, if it is its turn; returns how many were, -1 if none is wanted."""
        return int(await self._run("fill", fill_arguments(chunk, self.config)))

    async def seen(self) -> Seen:
        """Where a mirror that reads the rows now has to follow on."""
        epoch, moment, place = await self._run("seen", [])
        return Seen(epoch.decode(), _moment(moment), place.decode())

    async def rows(self, id_: str, most: int = 1000) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Keys and rows of an aggregate, about so many at a time; some maybe more than once."""
        cursor = b"0"
        while True:
            cursor, found = await self._run("rows", [cursor, id_, most])
            yield _pairs(found)
            if cursor == b"0":
                return

    async def sweep(self, id_: str, cursor: str, oldest: float, most: int) -> str:
        """Forget rows of an aggregate whose cells are all older; about so many are looked at.

        oldest: the second double of a cell that still counts. Returns the cursor to go on with, "0"
        at the end.
        """
        found = await self._run("sweep", [cursor, id_, most, repr(oldest)])
        return str(found.decode())

    async def follow(self, place: str, most: int = 1000) -> Changes:
        """What changed after a place, not more than so much."""
        return _changes(await self._run("follow", [place, most]))

    async def identify(self, session_id: str, user_id: str) -> tuple[int, int]:
        """Name a session's user: events of nobody so far become the user's, later ones follow.

        Naming another user later moves on: what was recorded until then stays with the former.
        An event with a ``user_id`` does the same. Returns (events joined, session version).
        """
        config = self.config
        joined, version = await self._run(
            "identify",
            [session_id, user_id, config.user_cap, config.session_ttl, config.user_ttl],
        )
        return joined, version

    async def forget(self, session_id: str) -> bool:
        """Drop a session, and its events from those of every user it had; the log stays.

        Returns whether there was anything.
        """
        return bool(await self._run("forget", [session_id]))

    async def put_items(
        self, changes: Sequence[tuple[str, items.Change]]
    ) -> list[items.Item | items.FieldError]:
        """Change items in turn: of each what it is now, or why it cannot become that.

        Merged here and put only where nobody else was faster, else merged again, so that no change
        is lost. Items that exist cost a second round trip, which fetches them.
        """
        outcomes: dict[int, items.Item | items.FieldError] = {}
        known: dict[str, bytes] = {}
        waiting = list(range(len(changes)))
        while waiting:
            tried, arguments = [], list[Any]()
            for k in waiting:
                item_id, change = changes[k]
                before = known.get(item_id, b"")
                try:
                    item = items.merged(items.decode(before) if before else None, change)
                except items.FieldError as error:
                    outcomes[k] = error
                    continue
                tried.append(k)
                outcomes[k], known[item_id] = item, items.encode(item)
                arguments += (item_id, before, known[item_id], items.encode_terms(item))
            replies = await self._run("put_items", arguments)
            missed = [(k, now) for k, now in zip(tried, replies, strict=True) if now != 1]
            known.update({changes[k][0]: now for k, now in missed})
            waiting = [k for k, _ in missed]
        return [outcomes[k] for k in range(len(changes))]

    async def delete_item(self, item_id: str) -> None:
        """Forget what is known of an item, and hide it until it is put again."""
        await self._run("delete_item", [item_id])

    async def item(self, item_id: str) -> items.Item | None:
        """What is known of an item; ``None`` for one never put or deleted."""
        payload = await self._run("item", [item_id])
        return items.decode(payload) if payload else None

    async def all_items(
        self, most: int = 1000
    ) -> AsyncIterator[tuple[str, list[tuple[bytes, bytes]]]]:
        """All items, about so many at a time, some maybe more than once, as in store.lua; with the
        place in the stream of their changes at that moment."""
        cursor = b"0"
        while True:
            place, cursor, found = await self._run("items", [cursor, most])
            yield place.decode(), _pairs(found)
            if cursor == b"0":
                return

    async def follow_items(self, place: str, most: int = 1000) -> ItemChanges:
        """How items changed after a place, not more than so many."""
        changes: ItemChanges = await self._run("follow_items", [place, most])
        return changes

    async def quarantined(self) -> list[Suspect]:
        """The sessions in quarantine, the latest first."""
        found = []
        for session, told in _pairs(await self._run("quarantined", [])):
            if told != b"released":
                since, velocity, repetition, *reason = told.decode().split()
                scores = float(since), float(velocity), int(repetition)
                found.append(Suspect(session.decode(), *scores, reason[0] if reason else ""))
        return sorted(found, key=lambda suspect: (-suspect.since, suspect.session_id))

    async def release(self, session_id: str) -> bool:
        """Count what a session in quarantine did, as far as it is held, and what it will do.

        It is not put into quarantine again. Returns whether it was in it.
        """
        partition = partition_of(session_id, self.config)
        arguments = [session_id, partition, self.config.session_ttl]
        return bool(await self._run("release", arguments))

    async def lag(self) -> Lag:
        """What of the live log is in no file yet."""
        numbers = await self._run("lag", [MOST_PARTITIONS])
        oldest = [milliseconds for milliseconds in numbers[1::2] if milliseconds]
        return Lag(sum(numbers[::2]), min(oldest) / 1000 if oldest else None)

    async def score(self, hits: Mapping[str, bool], probation: str = "", visitor: str = "") -> None:
        """Count an event for bundles, by whether the list of each held its item.

        probation: its name, if one goes on; then hits are of the new bundle and the former, in this
        order. visitor: a digest of who acted, of whom one event counts there.
        """
        flat = [part for bundle, hit in hits.items() for part in (bundle, int(hit))]
        await self._run("score", [QUALITY_TTL, probation, visitor, *flat])

    async def quality(self, bundles: Sequence[str]) -> dict[str, tuple[int, int]]:
        """By bundle, how many events were scored, and in how many of these its list hit."""
        counts = await self._run("quality", list(bundles))
        return {bundle: (counts[2 * k], counts[2 * k + 1]) for k, bundle in enumerate(bundles)}

    async def probation(self, name: str) -> Counts:
        """What a probation has found so far."""
        found = {key.decode(): value for key, value in _pairs(await self._run("probation", [name]))}
        ended = found.pop("ended", b"").decode()
        return Counts(**{key: int(value) for key, value in found.items()}, ended=ended)

    async def end_probation(self, name: str, how: str) -> None:
        """Let a probation count no more. how: as in `probation.Counts`."""
        await self._run("end_probation", [name, QUALITY_TTL, how])

    async def ping(self) -> None:
        """Return if Redis answers."""
        await self._link.call("PING")

    async def close(self) -> None:
        await self._link.close()

    async def _run(self, operation: str, arguments: list[Any], *, at_once: bool = False) -> Any:
        call, asked = self._link.call, (1, self._prefix, operation, *arguments)
        function = LIBRARY.function(operation)
        try:
            return await call("FCALL", function, *asked, at_once=at_once)
        except NoLibrary:  # a server that has just begun
            try:
                await call("FUNCTION", "LOAD", "REPLACE", LIBRARY.code)
            except StoreRefusal:
                return await call("EVAL", LIBRARY.script, *asked)
            return await call("FCALL", function, *asked)


class _Link(asyncio.Protocol):
    """One connection for all calls of a process: commands go out as they come, answers return in
    the same order. A pool, and streams, would cost several turns of a busy event loop per call.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._timeout = timeout
        self._pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
        self._connecting = asyncio.Lock()
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._closed = False
        self._reader = Reader(notEnoughData=MORE)
        # Calls, and whether they go on at once when answered.
        self._waiting: deque[tuple[asyncio.Future[Any], bool]] = deque()
        self._watching: asyncio.Task[None] | None = None
        self._down_until = 0.0

    async def call(self, *command: Any, at_once: bool = False) -> Any:
        """The answer to a command. Raises StoreUnavailable, NoLibrary.

        at_once: what follows is little, and goes before what follows from other answers. Never
        tried twice: a batch whose answer was lost may have been counted.
        """
        # What cannot be packed must not wait for an answer: later ones would be handed to the wrong
        # calls.
        packed = pack_command(command)
        transport = self._transport or await self._connect()
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, at_once))
        try:
            transport.write(packed)
        except (OSError, RuntimeError) as error:  # uvloop's, of one that was closed a moment ago
            if self._transport is transport:
                self._drop(f"Redis cannot be reached: {error}")
        found = await answer
        if isinstance(found, ReplyError):
            if NO_LIBRARY in str(found):
                raise NoLibrary
            raise StoreRefusal(_refusal(str(found)))
        return found

    async def close(self) -> None:
        self._closed = True
        watching = self._watching
        self._drop("the store was closed")
        if watching:
            await asyncio.gather(watching, return_exceptions=True)

    async def _connect(self) -> asyncio.Transport:
        async with self._connecting:
            if self._transport is not None:  # made while this call waited its turn
                return self._transport
            if time.monotonic() < self._down_until:
                raise StoreUnavailable("Redis did not answer a moment ago")
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with asyncio.timeout(2 * self._timeout):
                    await connection.connect()  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                self._down_until = time.monotonic() + DOWN_FOR
                await connection.disconnect(nowait=True)
                reason = str(error) or f"no answer within {2 * self._timeout:g} s"
                raise StoreUnavailable(f"Redis cannot be reached: {reason}") from error
            # Greeted, and with nothing under way: from here on answers come to `data_received`. The
            # writer is kept, as the transport ends with it.
            self._writer, connection._writer, connection._reader = connection._writer, None, None
            assert self._writer is not None
            transport: asyncio.Transport = self._writer.transport  # type: ignore[assignment]  # it reads too
            transport.set_protocol(self)
            # Written at once: uvloop waits for the end of its turn, and for all that is done in it.
            transport.set_write_buffer_limits(high=0)
            self._transport, self._reader = transport, Reader(notEnoughData=MORE)
            self._watching = asyncio.create_task(self._watch())
            if self._closed:
                self._drop("the store was closed")
                raise StoreUnavailable("the store was closed")
            return transport

    def data_received(self, data: bytes) -> None:
        """Hand each answer to the call that waits longest."""
        self._reader.feed(data)
        while True:
            try:
                answer = self._reader.gets()
            except ProtocolError as error:
                self._drop(f"Redis cannot be understood: {error}")
                return
            if answer is MORE:
                return
            if isinstance(answer, PushNotification):  # of the server, to nobody's question
                continue
            waiting, at_once = self._waiting.popleft()
            if at_once:
                _hand(answer, waiting)
                continue
            # In the next turn of the event loop: lists follow, and what came meanwhile is looked at
            # before them.
            asyncio.get_running_loop().call_soon(_hand, answer, waiting)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None and self._transport.is_closing():
            self._drop(f"Redis cannot be reached: {error or 'it closed the connection'}")

    async def _watch(self) -> None:
        """Give the connection up when an answer is overdue.

        Time is counted in turns of the event loop in which an answer could have been read, so a
        process that is itself busy does not take that for silence of Redis.
        """
        oldest, turns = None, 0
        while turns < TURNS:
            await asyncio.sleep(self._timeout / TURNS)
            first = self._waiting[0] if self._waiting else None
            turns = turns + 1 if first is oldest and first is not None else 0
            oldest = first
        self._drop(f"no answer from Redis within {self._timeout:g} s")

    def _drop(self, reason: str) -> None:
        """Fail every call under way, and refuse new ones for a while."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._writer = None
        self._down_until = time.monotonic() + DOWN_FOR
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(StoreUnavailable(reason))
        watching, self._watching = self._watching, None
        if watching is not None and watching is not asyncio.current_task():
            watching.cancel()


def _hand(answer: Any, waiting: asyncio.Future[Any]) -> None:
    if not waiting.done():  # else its caller was cancelled
        waiting.set_result(answer)


def _counted(event: Event) -> tuple[str, ...]:
    """What event_of of store.lua takes, but the terms. Numbers as text that gives the same."""
    return (
        event.event_id or "",
        event.session_id,
        event.user_id or "",
        event.type,
        event.item_id or "",
        repr(event.timestamp),
        "" if event.value is None else repr(event.value),
    )


def fill_arguments(chunk: Chunk, config: StoreConfig) -> list[Any]:
    """What fill of store.lua takes."""
    return [
        chunk.id,
        chunk.source,
        chunk.number,
        "done" if chunk.last else "",
        repr(chunk.moment),
        os.urandom(8).hex() if chunk.anew else "",
        len(chunk.rows),
        *(part for pair in chunk.rows for part in pair),
        config.session_ttl,
        *(part for event in chunk.events for part in (*_counted(event), orjson.dumps(event.terms))),
    ]


def partition_of(session_id: str, config: StoreConfig) -> int:
    """The partition of the live log that holds a session's events, in order of arrival."""
    return zlib.crc32(session_id.encode()) % config.log_partitions


def place_of(text: str | bytes) -> tuple[int, int]:
    """A place in a stream of Redis, as it sorts: milliseconds, and which one in these."""
    milliseconds, number = (text if isinstance(text, bytes) else text.encode()).split(b"-")
    return int(milliseconds), int(number)


def prefix(config: StoreConfig) -> str:
    """What every key begins with."""
    return f"{{{config.namespace}}}:"


def log_key(config: StoreConfig, part: int | str) -> str:
    """A key of the live log for its readers: a partition, "reading" or "readers"; see store.lua."""
    return f"{prefix(config)}log:{part}"


def check_url(url: str) -> str:
    """The URL, if redis can be reached by one of this form. Raises StoreUrlError."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in SCHEMES and bool(
            parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0
        )
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise StoreUrlError(
            f"{redacted(url)!r} is not a Redis URL; expected redis://HOST:PORT/DB, "
            "rediss://HOST:PORT/DB or unix:///PATH/TO/SOCKET"
        )
    return url


def redacted(url: str) -> str:
    """The URL without its password, for messages."""
    return re.sub(r"(//[^:@/]*):[^@]*@", r"\1:***@", url)


def _refusal(said: str) -> str:
    said = re.sub(r"\.? script: \w+, on @user_(function|script):.*", "", said)
    said = said.replace(NO_MEMORY, "command not allowed")
    if NO_FUNCTIONS.match(said):
        said = "ERR it is older than version 7: functions are needed (or Valkey)"
    code, _, words = said.partition(" ")
    if code in READS_ONLY:
        return f"Redis does not take writes: {words.lstrip()}"
    return f"Redis refuses: {words if code == 'ERR' else said}"


def _changes(reply: list[Any]) -> Changes:
    epoch, moment, cut, entries = reply
    return Changes(epoch.decode(), _moment(moment), bool(cut), entries)


def _moment(text: bytes) -> float:
    return float(text) if text else -math.inf


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
