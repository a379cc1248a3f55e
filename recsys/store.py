"""Store: sessions, users' live events, de-duplication and the live log, in Redis.

Every key of an engine carries its namespace as the hash tag: ``{recsys}:session:<id>:events``. One
Lua script may therefore touch a session, its user and the log atomically in one round trip, and
a Redis Cluster holds the whole engine on one shard; several engines are several namespaces.
"""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from recsys.events import LOG_ONLY_TYPES, Event, InputError, encode

# Every key, after the prefix "{namespace}:". The scripts build them from the same words.
#   session:<id>:events  list of event payloads in order of arrival, capped, session_ttl
#   session:<id>:meta    hash: version (accepted events so far), user (last known), session_ttl
#   user:<id>:events     list of event payloads in order of arrival, capped, user_ttl
#   seen:<event_id>      a client's event id that was accepted, dedup_ttl
#   log                  stream of all accepted events: e = payload, u = the session's known user

SCHEMES = ("redis", "rediss", "unix")
DOWN_FOR = 1.0  # seconds during which a store that failed is not asked again
CONNECTIONS = 64  # per process


@dataclass(frozen=True)
class StoreConfig:
    """What a deployment may set about its live data."""

    namespace: str = "recsys"
    session_cap: int = 200  # last events kept of a session; the fold uses fewer
    user_cap: int = 400  # last events kept of a user, across sessions
    session_ttl: int = 24 * 3600  # seconds after the last event
    user_ttl: int = 30 * 24 * 3600  # seconds after the last event
    dedup_ttl: int = 7 * 24 * 3600  # seconds an event id is remembered
    log_maxlen: int = 5_000_000  # events kept in the live log, approximately
    timeout: float = 0.25  # seconds for one round trip, connecting included

    def __post_init__(self) -> None:
        if not self.namespace or set("{}") & set(self.namespace):
            raise InputError(f"namespace: {self.namespace!r} must be non-empty, without braces")


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch. versions: of every session named in it, duplicates included."""

    accepted: int
    duplicates: int
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Live:
    """What Redis holds of a visitor, in order of arrival. version 0: an unknown session."""

    version: int = 0
    user_id: str | None = None
    events: list[Event] = field(default_factory=list)
    user_events: list[Event] = field(default_factory=list)


class StoreUnavailable(Exception):  # noqa: N818  # a state of the world, like KeyboardInterrupt
    """Redis cannot be reached, or does not take writes."""


class StoreUrlError(InputError):
    """The text given as a Redis URL is none."""


_COMMON = """
local prefix = KEYS[1]
local function events_of(session) return prefix .. 'session:' .. session .. ':events' end
local function meta_of(session) return prefix .. 'session:' .. session .. ':meta' end
local function user_of(user) return prefix .. 'user:' .. user .. ':events' end
local function push(key, payload, cap, ttl)
  redis.call('RPUSH', key, payload)
  redis.call('LTRIM', key, -cap, -1)
  redis.call('EXPIRE', key, ttl)
end
-- Names the user of a session. Events that belonged to nobody become the user's, in order;
-- those recorded under another user stay with that one. Returns how many were joined.
local function identify(session, user, user_cap, session_ttl, user_ttl)
  local meta = meta_of(session)
  local known = redis.call('HGET', meta, 'user')
  local joined = 0
  if known ~= user then
    redis.call('HSET', meta, 'user', user)
    if not known then
      for _, payload in ipairs(redis.call('LRANGE', events_of(session), 0, -1)) do
        push(user_of(user), payload, user_cap, user_ttl)
        joined = joined + 1
      end
    end
  end
  redis.call('EXPIRE', meta, session_ttl)
  return joined
end
"""

# Per event: client's event id or '', session, user or '', '1' if it goes to the log only, payload.
_APPEND = (
    _COMMON
    + """
local session_cap, user_cap = tonumber(ARGV[1]), tonumber(ARGV[2])
local session_ttl, user_ttl, dedup_ttl = ARGV[3], ARGV[4], ARGV[5]
local maxlen = ARGV[6]
local accepted, duplicates = 0, 0
for at = 7, #ARGV, 5 do
  local id, session, user, log_only, payload = unpack(ARGV, at, at + 4)
  if id ~= '' and not redis.call('SET', prefix .. 'seen:' .. id, '', 'NX', 'EX', dedup_ttl) then
    duplicates = duplicates + 1
  else
    accepted = accepted + 1
    local meta = meta_of(session)
    if user ~= '' then
      identify(session, user, user_cap, session_ttl, user_ttl)
    else
      user = redis.call('HGET', meta, 'user') or ''
    end
    redis.call('HINCRBY', meta, 'version', 1)
    redis.call('EXPIRE', meta, session_ttl)
    if log_only == '0' then
      push(events_of(session), payload, session_cap, session_ttl)
      if user ~= '' then push(user_of(user), payload, user_cap, user_ttl) end
    else
      redis.call('EXPIRE', events_of(session), session_ttl)
    end
    if user ~= '' then
      redis.call('XADD', prefix .. 'log', 'MAXLEN', '~', maxlen, '*', 'e', payload, 'u', user)
    else
      redis.call('XADD', prefix .. 'log', 'MAXLEN', '~', maxlen, '*', 'e', payload)
    end
  end
end
local reply, named = {accepted, duplicates}, {}
for at = 7, #ARGV, 5 do
  local session = ARGV[at + 1]
  if not named[session] then
    named[session] = true
    reply[#reply + 1] = session
    reply[#reply + 1] = tonumber(redis.call('HGET', meta_of(session), 'version') or 0)
  end
end
return reply
"""
)

# ARGV: session or '', user or ''.
_READ = (
    _COMMON
    + """
local session, user = ARGV[1], ARGV[2]
local version, events, user_events = 0, {}, {}
if session ~= '' then
  local meta = redis.call('HMGET', meta_of(session), 'version', 'user')
  version = tonumber(meta[1] or 0)
  events = redis.call('LRANGE', events_of(session), 0, -1)
  if user == '' and meta[2] then user = meta[2] end
end
if user ~= '' then user_events = redis.call('LRANGE', user_of(user), 0, -1) end
return {version, user, events, user_events}
"""
)

# ARGV: session, user, user_cap, session_ttl, user_ttl.
_IDENTIFY = (
    _COMMON
    + """
local joined = identify(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5])
return {joined, tonumber(redis.call('HGET', meta_of(ARGV[1]), 'version') or 0)}
"""
)

# ARGV: session. Its events are taken out of its known user's as well.
_FORGET = (
    _COMMON
    + """
local session = ARGV[1]
local user = redis.call('HGET', meta_of(session), 'user')
if user then
  for _, payload in ipairs(redis.call('LRANGE', user_of(user), 0, -1)) do
    if cjson.decode(payload).session_id == session then
      redis.call('LREM', user_of(user), 1, payload)
    end
  end
end
return redis.call('DEL', meta_of(session), events_of(session))
"""
)


class Store:
    """One engine's live data. Every method is one round trip and raises StoreUnavailable."""

    def __init__(self, url: str, config: StoreConfig | None = None) -> None:
        """Connects on first use. Raises StoreUrlError."""
        self.config = config or StoreConfig()
        self._down_until = 0.0
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                check_url(url),
                max_connections=CONNECTIONS,
                # One limit around each round trip instead of one per step of it; and no second
                # try, since a batch whose answer was lost may have been counted.
                timeout=None,
                socket_timeout=None,
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),
            )
        )

    async def append(self, events: Sequence[Event]) -> Appended:
        """Accept a batch, all or nothing; an ``event_id`` seen before counts as a duplicate.

        Events without an ``event_id`` get one; being new, it need not be remembered.
        """
        config = self.config
        arguments: list[Any] = [
            config.session_cap,
            config.user_cap,
            config.session_ttl,
            config.user_ttl,
            config.dedup_ttl,
            config.log_maxlen,
        ]
        for event in events:
            named = event if event.event_id else replace(event, event_id=os.urandom(16).hex())
            arguments += (
                event.event_id or "",
                event.session_id,
                event.user_id or "",
                int(event.type in LOG_ONLY_TYPES),
                encode(named),
            )
        accepted, duplicates, *versions = await self._run(APPEND, arguments)
        sessions = [session.decode() for session in versions[::2]]
        return Appended(accepted, duplicates, dict(zip(sessions, versions[1::2], strict=True)))

    async def read(self, session_id: str | None, user_id: str | None) -> Live:
        """A visitor's live data; the user's is that of ``user_id``, else of the session's user."""
        if not session_id and not user_id:
            return Live()
        version, user, events, user_events = await self._run(
            READ, [session_id or "", user_id or ""]
        )
        return Live(version, user.decode() or None, _decoded(events), _decoded(user_events))

    async def identify(self, session_id: str, user_id: str) -> tuple[int, int]:
        """Name a session's user: events of nobody so far become the user's, later ones follow.

        Naming another user later moves on: what was recorded until then stays with the former.
        An event with a ``user_id`` does the same. Returns (events joined, session version).
        """
        config = self.config
        joined, version = await self._run(
            IDENTIFY,
            [session_id, user_id, config.user_cap, config.session_ttl, config.user_ttl],
        )
        return joined, version

    async def forget(self, session_id: str) -> bool:
        """Drop a session, and its events from its user's; the log stays. Was there anything?"""
        return bool(await self._run(FORGET, [session_id]))

    async def ping(self) -> None:
        """Return if Redis answers."""
        await self._guarded(lambda: self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(self, script: "_Script", arguments: list[Any]) -> Any:
        return await self._guarded(lambda: self._evaluate(script, arguments))

    async def _evaluate(self, script: "_Script", arguments: list[Any]) -> Any:
        prefix = f"{{{self.config.namespace}}}:"
        try:
            return await self._redis.evalsha(script.sha, 1, prefix, *arguments)
        except NoScriptError:  # a server that has just started
            return await self._redis.eval(script.text, 1, prefix, *arguments)

    async def _guarded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await a round trip within the time limit; after a failure refuse at once for a while."""
        if time.monotonic() < self._down_until:
            raise StoreUnavailable("Redis did not answer a moment ago")
        try:
            async with asyncio.timeout(self.config.timeout):
                return await call()
        except TimeoutError as error:
            reason = f"no answer from Redis within {self.config.timeout:g} s"
            failure: Exception = error
        except (RedisConnectionError, BusyLoadingError, RedisTimeoutError, OSError) as error:
            reason, failure = f"Redis cannot be reached: {error}", error
        except RedisError as error:
            # It answers, but refuses this command (disk full, read-only, out of memory).
            raise StoreUnavailable(f"Redis refuses: {error}") from error
        self._down_until = time.monotonic() + DOWN_FOR
        raise StoreUnavailable(reason) from failure


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


def _decoded(payloads: list[bytes]) -> list[Event]:
    # One JSON document for all of them: a third of the time of decoding each.
    return [Event(**fields) for fields in orjson.loads(b"[" + b",".join(payloads) + b"]")]


@dataclass(frozen=True)
class _Script:
    text: str
    sha: str


def _script(text: str) -> _Script:
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND, READ, IDENTIFY, FORGET = map(_script, (_APPEND, _READ, _IDENTIFY, _FORGET))
