"""The Redis scripts of the store, and the only place where its keys are named.

Every script gets the prefix ``{namespace}:`` as KEYS[1] and derives all keys from it; one hash tag
keeps them on one cluster slot.
"""

import hashlib
from dataclasses import dataclass

# Every key, after the prefix "{namespace}:".
#   session:<id>:events  list of event payloads in order of arrival, capped, session_ttl
#   session:<id>:meta    hash: version (accepted events so far), user (last known), session_ttl
#   user:<id>:events     list of event payloads in order of arrival, capped, user_ttl
#   seen:<event_id>      a client's event id that was accepted, dedup_ttl
#   log                  stream of all accepted events: e = payload, u = the session's known user


@dataclass(frozen=True)
class Script:
    text: str
    sha: str


def script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


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

APPEND, READ, IDENTIFY, FORGET = map(script, (_APPEND, _READ, _IDENTIFY, _FORGET))
