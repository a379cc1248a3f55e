-- The store's operations, each atomic and one round trip. ARGV[1] names the operation.
--
-- Every key is named here, and those of the log for its readers in store.py. KEYS[1] is the prefix "{namespace}:", whose hash tag
-- keeps them all on one cluster slot; behind it:
--   session:<id>:events  list of event payloads in order of arrival, capped, session_ttl
--   session:<id>:meta    hash: version (accepted events so far), user (last known), session_ttl
--   session:<id>:users   set of users whose lists may hold its events, 2 * user_ttl
--   user:<id>:events     list of event payloads in order of arrival, capped, user_ttl
--   user:<id>:swept      present while the users sets of the list's sessions are fresh, user_ttl
--   seen:<event_id>      a client's event id that was accepted, dedup_ttl
--   log:<partition>      streams of all accepted events: e = payload, u = the session's known user;
--                        those of a session are in one
--   log:reading          a name of the log, present once it has readers; they alone cut it then
--   log:readers          sorted set of the readers and when they last said so
local function events_of(session) return KEYS[1] .. 'session:' .. session .. ':events' end
local function meta_of(session) return KEYS[1] .. 'session:' .. session .. ':meta' end
local function users_of(session) return KEYS[1] .. 'session:' .. session .. ':users' end
local function user_of(user) return KEYS[1] .. 'user:' .. user .. ':events' end
local function swept_of(user) return KEYS[1] .. 'user:' .. user .. ':swept' end
local function seen_of(event_id) return KEYS[1] .. 'seen:' .. event_id end
local function log_of(partition) return KEYS[1] .. 'log:' .. partition end

local function version_of(session)
  return tonumber(redis.call('HGET', meta_of(session), 'version') or 0)
end

local function push(key, payload, cap, ttl)
  redis.call('RPUSH', key, payload)
  redis.call('LTRIM', key, -cap, -1)
  redis.call('EXPIRE', key, ttl)
end

-- Remembers that a user's list holds events of a session, so that `forget` finds them there however
-- long ago they were. An active user's list never expires, so once per user_ttl the sets of all
-- sessions in it are renewed: sweeps, and the last one and the end of the list, lie less than
-- 2 * user_ttl apart.
local function hold(session, user, user_ttl)
  redis.call('SADD', users_of(session), user)
  redis.call('EXPIRE', users_of(session), 2 * user_ttl)
  if redis.call('SET', swept_of(user), '', 'NX', 'EX', user_ttl) then
    for _, payload in ipairs(redis.call('LRANGE', user_of(user), 0, -1)) do
      redis.call('EXPIRE', users_of(cjson.decode(payload).session_id), 2 * user_ttl)
    end
  end
end

-- Names the user of a session. Events that belonged to nobody become the user's, in order; those
-- recorded under another user stay with that one. Returns how many were joined.
local function join(session, user, user_cap, session_ttl, user_ttl)
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
      if joined > 0 then hold(session, user, user_ttl) end
    end
  end
  redis.call('EXPIRE', meta, session_ttl)
  return joined
end

-- ARGV: session_cap, user_cap, session_ttl, user_ttl, dedup_ttl, the most entries of a partition of
-- the log while nobody reads it, then per event: the client's event id or '', session, user or '',
-- '1' if it goes to the log only, partition, payload.
-- Returns accepted, duplicates, then session and version of each session named.
local function append()
  local session_cap, user_cap, session_ttl, user_ttl, dedup_ttl, maxlen = unpack(ARGV, 2, 7)
  local accepted, duplicates = 0, 0
  local unread = redis.call('EXISTS', log_of('reading')) == 0
  for at = 8, #ARGV, 6 do
    local id, session, user, log_only, partition, payload = unpack(ARGV, at, at + 5)
    if id ~= '' and not redis.call('SET', seen_of(id), '', 'NX', 'EX', dedup_ttl) then
      duplicates = duplicates + 1
    else
      accepted = accepted + 1
      local meta, events = meta_of(session), events_of(session)
      if user ~= '' then
        join(session, user, user_cap, session_ttl, user_ttl)
      else
        user = redis.call('HGET', meta, 'user') or ''
      end
      redis.call('HINCRBY', meta, 'version', 1)
      redis.call('EXPIRE', meta, session_ttl)
      if log_only == '1' then
        redis.call('EXPIRE', events, session_ttl)
      else
        push(events, payload, session_cap, session_ttl)
        if user ~= '' then
          push(user_of(user), payload, user_cap, user_ttl)
          hold(session, user, user_ttl)
        end
      end
      local log = log_of(partition)
      if user ~= '' then
        redis.call('XADD', log, '*', 'e', payload, 'u', user)
      else
        redis.call('XADD', log, '*', 'e', payload)
      end
      if unread then redis.call('XTRIM', log, 'MAXLEN', '~', maxlen) end
    end
  end
  local reply, named = {accepted, duplicates}, {}
  for at = 8, #ARGV, 6 do
    local session = ARGV[at + 1]
    if not named[session] then
      named[session] = true
      reply[#reply + 1] = session
      reply[#reply + 1] = version_of(session)
    end
  end
  return reply
end

-- ARGV: session or '', user or ''. The user defaults to the session's known one.
local function read()
  local session, user = ARGV[2], ARGV[3]
  local version, events, user_events = 0, {}, {}
  if session ~= '' then
    local meta = redis.call('HMGET', meta_of(session), 'version', 'user')
    version = tonumber(meta[1] or 0)
    events = redis.call('LRANGE', events_of(session), 0, -1)
    if user == '' and meta[2] then user = meta[2] end
  end
  if user ~= '' then user_events = redis.call('LRANGE', user_of(user), 0, -1) end
  return {version, user, events, user_events}
end

-- ARGV: session, user, user_cap, session_ttl, user_ttl.
local function identify()
  return {join(unpack(ARGV, 2, 6)), version_of(ARGV[2])}
end

-- ARGV: session. Its events are taken out of the lists of all users it ever had as well.
local function forget()
  local session = ARGV[2]
  local removed = 0
  for _, user in ipairs(redis.call('SMEMBERS', users_of(session))) do
    for _, payload in ipairs(redis.call('LRANGE', user_of(user), 0, -1)) do
      if cjson.decode(payload).session_id == session then
        removed = removed + redis.call('LREM', user_of(user), 0, payload)
      end
    end
  end
  return removed + redis.call('DEL', meta_of(session), events_of(session), users_of(session))
end

-- ARGV: how many partitions there may be. Returns, for each, how many entries are in no file yet and
-- the milliseconds of the oldest, 0 without any.
local function lag()
  local reply = {}
  for partition = 0, ARGV[2] - 1 do
    local log = log_of(partition)
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    reply[#reply + 1] = redis.call('XLEN', log)
    reply[#reply + 1] = oldest and tonumber(string.match(oldest[1], '^%d+')) or 0
  end
  return reply
end

local operations = {
  append = append, read = read, identify = identify, forget = forget, lag = lag
}
return operations[ARGV[1]]()
