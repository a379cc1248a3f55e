-- The store's operations, each atomic and one round trip. This becomes a library of functions, see
-- store.py: what is made here is made once, and what is kept here stays from call to call.
--
-- Every key is named here, and those of the log for its readers in store.py. PREFIX is "{namespace}:", whose hash tag
-- keeps them all on one cluster slot; behind it:
--   session:<id>:events  list of event payloads in order of arrival, capped, session_ttl
--   session:<id>:meta    hash: version (accepted events so far), user (last known), scores (see
--                        `suspicion`), item:<id> (how often it came), session_ttl
--   session:<id>:aside   list like events, of those that go to the log only and are counted for
--                        everybody, so that they can be taken out again; capped, session_ttl
--   session:<id>:users   set of users whose lists may hold its events, 2 * user_ttl
--   user:<id>:events     list of event payloads in order of arrival, capped, user_ttl
--   user:<id>:swept      present while the users sets of the list's sessions are fresh, user_ttl
--   seen:<event_id>      a client's event id that was accepted, dedup_ttl
--   log:<partition>      streams of all accepted events: e = payload, u = the session's known user;
--                        those of a session are in one. Between them, of a session that is put into
--                        quarantine, q = session, velocity, repetition; of one released, r = session
--   quarantine           hash by session: since when (Unix seconds), velocity and repetition, which limit
--                        it is beyond, and what it did, if that is to do one thing only; or "released"
--   quarantine:since     sorted set of the same sessions and when they were last heard of; forgotten
--                        after user_ttl
--   aggregates           hash: declared (JSON list, see aggregates.definition), visitor (of these, id
--                        and key of those kept for users and sessions), epoch (a name that is another
--                        whenever mirrors have to be read anew), moment (of the latest event)
--   aggregate:<id>       hash of an aggregate's rows by key: cells of two doubles each, see
--                        aggregates.Table; the key of a pair is the length of the first, and both
--   aggregate:<id>:filled  hash of what is filled in of the time before it was declared: by source
--                        ("base", or a partition of the log) the number of chunks, or "done"; and
--                        after:<partition>, the place from which on the stream counted by itself
--   aggregate:<born>:trail:<session>   co_count: sorted set of a session's events by time, session_ttl
--   aggregate:<born>:step:<session>    unique_sessions: hash of the step of the session's latest
--                        event by key, as long as it may lie in the window. <born>: the epoch in which
--                        the aggregate was declared; one that ended and began anew has others
--   aggregate:<born>:once:<session>    decayed_count with once: hash of the time of the first event by
--                        key and number of the part of time, twice as long as such a part and
--                        session_ttl at least
--   changes              stream of rows as they become, for mirrors; the last CHANGES of them
--   items                hash of what is known of each item, see items.encode; '' of a deleted one
--   items:terms          hash of an item's price and category as JSON; the payload of an event has
--                        those of the moment in which it was accepted
--   items:changes        stream of items as they become, for shelves: i = id, d = as in items; the
--                        last ITEM_CHANGES of them
--   quality:<bundle>     hash: scored (events that a list of the bundle was made just before), hits
--                        (of these, in the list), quality_ttl
--   probation:<name>     hash: the fields of probation.Counts, quality_ttl
--   probation:<name>:visitors   set of digests of the visitors that count, quality_ttl
--   log:reading          a name of the log, present once it has readers; they alone cut it then
--   log:readers          sorted set of the readers and when they last said so

-- Of the call under way: its prefix, what is named by it, and its arguments, of which the first names
-- the operation.
local PREFIX, ARGV
local AGGREGATES, CHANGES, QUARANTINE, SINCE, ITEMS, ITEM_TERMS, ITEM_CHANGES

local function name_by(prefix)
  PREFIX = prefix
  AGGREGATES, CHANGES = PREFIX .. 'aggregates', PREFIX .. 'changes'
  QUARANTINE, SINCE = PREFIX .. 'quarantine', PREFIX .. 'quarantine:since'
  ITEMS, ITEM_TERMS = PREFIX .. 'items', PREFIX .. 'items:terms'
  ITEM_CHANGES = PREFIX .. 'items:changes'
end

local function events_of(session) return PREFIX .. 'session:' .. session .. ':events' end
local function meta_of(session) return PREFIX .. 'session:' .. session .. ':meta' end
local function users_of(session) return PREFIX .. 'session:' .. session .. ':users' end
local function user_of(user) return PREFIX .. 'user:' .. user .. ':events' end
local function swept_of(user) return PREFIX .. 'user:' .. user .. ':swept' end
local function aside_of(session) return PREFIX .. 'session:' .. session .. ':aside' end
local function seen_of(event_id) return PREFIX .. 'seen:' .. event_id end
local function log_of(partition) return PREFIX .. 'log:' .. partition end

local function rows_of(id) return PREFIX .. 'aggregate:' .. id end
local function filled_of(id) return rows_of(id) .. ':filled' end
local function trail_of(aggregate, session)
  return rows_of(aggregate.id .. aggregate.born) .. ':trail:' .. session
end
local function step_of(aggregate, session)
  return rows_of(aggregate.id .. aggregate.born) .. ':step:' .. session
end
local function once_of(aggregate, session)
  return rows_of(aggregate.id .. aggregate.born) .. ':once:' .. session
end

local EVENT = 11  -- arguments of one
local CHANGES_KEPT = 100000
local ITEM_CHANGES_KEPT = 10000
local ASIDE = 1000  -- events of a session that are kept aside
local VELOCITY_HALF_LIFE = 60  -- seconds
local CELL, STEPS, NEVER = 16, 24, -math.huge
local EMPTY = struct.pack('<dd', 0, NEVER)
local UNSCORED = struct.pack('<ddd', 0, NEVER, 0)
local NOTHING = 1e-12  -- what is left of a count after all that was added was taken out again

-- What became of the rows since a place in the stream of changes: the epoch, the moment, whether
-- changes since then were cut, and the changes, not more than a number.
local function changed_since(place, most)
  local epoch, moment = unpack(redis.call('HMGET', AGGREGATES, 'epoch', 'moment'))
  local first = redis.call('XRANGE', CHANGES, '-', '+', 'COUNT', 1)[1]
  local cut = 0
  if first and place ~= '0-0' and #redis.call('XRANGE', CHANGES, '-', place, 'COUNT', 1) == 0 then
    cut = 1
  end
  local changes = redis.call('XRANGE', CHANGES, '(' .. place, '+', 'COUNT', most)
  return {epoch or '', moment or '', cut, changes}
end

-- What became of items since a place in the stream of changes, not more than a number. First comes
-- the entry at that place, bare; where it is not there, others may be missing too.
local function items_since(place, most)
  local entries = redis.call('XRANGE', ITEM_CHANGES, place, '+', 'COUNT', most + 1)
  if entries[1] and entries[1][1] == place then entries[1][2] = {} end
  return entries
end

-- ARGV: session or '', user or '', a place in the stream of changes or '', how many changes at most,
-- and both for changes of items. The user defaults to the session's known one.
local function read()
  local session, user, place, most, items_place, items_most = unpack(ARGV, 2, 7)
  local version, events, user_events = 0, {}, {}
  if session ~= '' then
    local meta = redis.call('HMGET', meta_of(session), 'version', 'user')
    version = tonumber(meta[1] or 0)
    events = redis.call('LRANGE', events_of(session), 0, -1)
    if user == '' and meta[2] then user = meta[2] end
  end
  if user ~= '' then user_events = redis.call('LRANGE', user_of(user), 0, -1) end
  local own = {}
  for id, kept_for in string.gmatch(redis.call('HGET', AGGREGATES, 'visitor') or '', '(%w+)=(%w+)') do
    local key = kept_for == 'session' and session or user
    local row = key ~= '' and redis.call('HGET', rows_of(id), key)
    if row then
      own[#own + 1] = id
      own[#own + 1] = row
    end
  end
  local changes = place ~= '' and changed_since(place, most) or {}
  local of_items = items_place ~= '' and items_since(items_place, items_most) or {}
  return {version, user, events, user_events, own, changes, of_items}
end

local function version_of(session)
  return tonumber(redis.call('HGET', meta_of(session), 'version') or 0)
end

local function push(key, payload, cap, ttl)
  if redis.call('RPUSH', key, payload) > tonumber(cap) then redis.call('LTRIM', key, -cap, -1) end
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

-- What is kept for sessions and users is shown to the visitor it is of, the rest to everybody.
local function for_everybody(aggregate)
  return aggregate.key ~= 'session' and aggregate.key ~= 'user'
end

-- The keys of an aggregate that an event counts for.
local function keys_of(aggregate, event)
  if aggregate.key == 'category' then return event.categories end
  local key = event[aggregate.key]
  return key ~= '' and {key} or {}
end

-- Puts a cell's doubles into a row, and tells mirrors of those that everybody is shown.
local function put(aggregate, key, row, cell, first, second, changes)
  local bytes = struct.pack('<dd', first, second)
  row = string.sub(row, 1, cell * CELL) .. bytes .. string.sub(row, (cell + 1) * CELL + 1)
  redis.call('HSET', rows_of(aggregate.id), key, row)
  if for_everybody(aggregate) then
    changes[#changes + 1] = aggregate.id .. ':' .. cell
    changes[#changes + 1] = bytes .. key
  end
end

-- A key's row, and the doubles of one of its cells.
local function cell_of(aggregate, key, cell)
  local row = redis.call('HGET', rows_of(aggregate.id), key)
  if not row then return string.rep(EMPTY, aggregate.cells), 0, NEVER end
  local first, second = struct.unpack('<dd', row, cell * CELL + 1)
  return row, first, second
end

local function decay(aggregate, key, cell, time, amount, changes)
  local row, value, of = cell_of(aggregate, key, cell)
  if time >= of then
    value, of = value * 2 ^ ((of - time) / aggregate.span) + amount, time
  else
    value = value + amount * 2 ^ ((time - of) / aggregate.span)
  end
  local gone = amount < 0 and aggregate.cells == 1 and math.abs(value) < NOTHING
  if gone then value, of = 0, NEVER end  -- what rounding leaves is nothing, for mirrors too
  put(aggregate, key, row, cell, value, of, changes)
  if gone then redis.call('HDEL', rows_of(aggregate.id), key) end
end

local function add_in_window(aggregate, key, step, amount, changes)
  local cell = step % STEPS
  local row, count, of = cell_of(aggregate, key, cell)
  if step > of then
    put(aggregate, key, row, cell, amount, step, changes)
  elseif step == of then
    put(aggregate, key, row, cell, count + amount, step, changes)
  end
end

local function set_last(aggregate, key, time, value, changes)
  local row, known, of = cell_of(aggregate, key, 0)
  if time > of or (time == of and value > known) then
    put(aggregate, key, row, 0, value, time, changes)
  end
end

local function pair(a, b) return struct.pack('>I2', #a) .. a .. b end

-- The item of an event of a trail.
local function item_in(member)
  return string.sub(member, -struct.unpack('>I2', member, #member - 1) - 2, -3)
end

-- The events of a trail at the time nearest to one, on one side of it: that time and their items.
local function beside(trail, time, command, bound)
  local nearest = redis.call(command, trail, '(' .. time, bound, 'LIMIT', 0, 1, 'WITHSCORES')
  if not nearest[1] then return nil, {} end
  local items = {}
  for k, member in ipairs(redis.call('ZRANGEBYSCORE', trail, nearest[2], nearest[2])) do
    items[k] = item_in(member)
  end
  return tonumber(nearest[2]), items
end

local function add_step(aggregate, event, changes)
  local trail = trail_of(aggregate, event.session)
  local time, item, gap = event.time, event.item, aggregate.gap
  local before, sources = beside(trail, event.stamp, 'ZREVRANGEBYSCORE', '-inf')
  local after, targets = beside(trail, event.stamp, 'ZRANGEBYSCORE', '+inf')
  local from = before and time - before <= gap and sources or {}
  local to = after and after - time <= gap and targets or {}
  for _, a in ipairs(from) do
    if a ~= item then decay(aggregate, pair(a, item), 0, time, 1, changes) end
  end
  for _, b in ipairs(to) do
    if b ~= item then decay(aggregate, pair(item, b), 0, after, 1, changes) end
  end
  -- What it comes between followed each other until now.
  local parts = before and after and after - before <= gap
  if parts and redis.call('ZCOUNT', trail, event.stamp, event.stamp) == 0 then
    for _, a in ipairs(sources) do
      for _, b in ipairs(targets) do
        if a ~= b then decay(aggregate, pair(a, b), 0, after, -1, changes) end
      end
    end
  end
  redis.call('ZADD', trail, event.stamp, event.id .. item .. struct.pack('>I2', #item))
end

local function move_session(aggregate, key, event, step, changes)
  local steps = step_of(aggregate, event.session)
  local before = tonumber(redis.call('HGET', steps, key) or NEVER)
  if step > before then
    if before > NEVER then add_in_window(aggregate, key, before, -1, changes) end
    add_in_window(aggregate, key, step, 1, changes)
    redis.call('HSET', steps, key, string.format('%.17g', step))
  end
  redis.call('EXPIRE', steps, math.ceil(2 * aggregate.span))
end

-- Counts the first event of a session in a part of time, which may come after others.
local function add_once(aggregate, key, event, changes)
  local once, part = once_of(aggregate, event.session), math.floor(event.time / aggregate.once)
  local field = key .. struct.pack('<d', part)
  local known = redis.call('HGET', once, field)
  if not known or event.time < tonumber(known) then
    if known then decay(aggregate, key, 0, tonumber(known), -1, changes) end
    decay(aggregate, key, 0, event.time, 1, changes)
    redis.call('HSET', once, field, event.stamp)
  end
end

-- Adds to a count that knows nothing of what else was in the session.
local function add(aggregate, event, amount, changes)
  local counted, of = aggregate.types[event.type], aggregate.of[event.type]
  for _, key in ipairs(keys_of(aggregate, event)) do
    if aggregate.kind == 'ratio' then
      if counted then decay(aggregate, key, 0, event.time, amount, changes) end
      if of then decay(aggregate, key, 1, event.time, amount, changes) end
    elseif counted and aggregate.kind == 'decayed_count' then
      decay(aggregate, key, 0, event.time, amount, changes)
    elseif counted then
      local step = math.floor(event.time / (aggregate.span / STEPS))
      add_in_window(aggregate, key, step, amount, changes)
    end
  end
end

-- Counts an event in an aggregate. ttl: seconds that a session is kept: as long as its events can be
-- taken out again it has to be known what they counted.
local function count(aggregate, event, ttl, changes)
  local counted = aggregate.types[event.type]
  if aggregate.kind == 'co_count' then
    if counted and event.item ~= '' then add_step(aggregate, event, changes) end
    redis.call('EXPIRE', trail_of(aggregate, event.session), ttl)
  elseif aggregate.kind == 'last_value' then
    local value = counted and event[aggregate.field or 'value']
    for _, key in ipairs(value and keys_of(aggregate, event) or {}) do
      set_last(aggregate, key, event.time, value, changes)
    end
  elseif aggregate.kind == 'unique_sessions' then
    local step = math.floor(event.time / (aggregate.span / STEPS))
    for _, key in ipairs(counted and keys_of(aggregate, event) or {}) do
      move_session(aggregate, key, event, step, changes)
    end
  elseif aggregate.once then
    for _, key in ipairs(counted and keys_of(aggregate, event) or {}) do
      add_once(aggregate, key, event, changes)
    end
    local kept = math.max(ttl, math.ceil(2 * aggregate.once))
    redis.call('EXPIRE', once_of(aggregate, event.session), kept)
  else
    add(aggregate, event, 1, changes)
  end
end

-- Takes the steps of a session's trail out again, and the trail away.
local function take_steps(aggregate, session, changes)
  local trail = trail_of(aggregate, session)
  local found = redis.call('ZRANGE', trail, 0, -1, 'WITHSCORES')
  local sources, before, items, time = {}, nil, {}, nil
  for at = 1, #found, 2 do
    local item, now = item_in(found[at]), tonumber(found[at + 1])
    if now ~= time then sources, before, items, time = items, time, {}, now end
    if before and now - before <= aggregate.gap then
      for _, a in ipairs(sources) do
        if a ~= item then decay(aggregate, pair(a, item), 0, now, -1, changes) end
      end
    end
    items[#items + 1] = item
  end
  redis.call('DEL', trail)
end

-- Takes a session out of where it counts as a visitor.
local function take_session(aggregate, session, changes)
  local steps = redis.call('HGETALL', step_of(aggregate, session))
  for at = 1, #steps, 2 do
    add_in_window(aggregate, steps[at], tonumber(steps[at + 1]), -1, changes)
  end
  redis.call('DEL', step_of(aggregate, session))
end

-- Takes out what a session counted once.
local function take_once(aggregate, session, changes)
  local times = redis.call('HGETALL', once_of(aggregate, session))
  for at = 1, #times, 2 do
    decay(aggregate, string.sub(times[at], 1, -9), 0, tonumber(times[at + 1]), -1, changes)
  end
  redis.call('DEL', once_of(aggregate, session))
end

-- Takes out of an aggregate what a session counted in it. Not out of a last value: what it was
-- before is not known. A count goes below nothing where the events are still to be filled in.
local function uncount(aggregate, session, events, changes)
  if aggregate.kind == 'co_count' then
    take_steps(aggregate, session, changes)
  elseif aggregate.kind == 'unique_sessions' then
    take_session(aggregate, session, changes)
  elseif aggregate.once then
    take_once(aggregate, session, changes)
  elseif aggregate.kind ~= 'last_value' then
    for _, event in ipairs(events) do add(aggregate, event, -1, changes) end
  end
end

-- What is declared, as it was read last, and the types of events that count for everybody by it.
local declared_text, declared_last, counted_for_everybody

-- These two, and the moment.
local function declared()
  local text, moment = unpack(redis.call('HMGET', AGGREGATES, 'declared', 'moment'))
  text = text or '[]'
  if text ~= declared_text then
    declared_text, declared_last, counted_for_everybody = text, cjson.decode(text), {}
    for _, aggregate in ipairs(declared_last) do
      if for_everybody(aggregate) then
        for type in pairs(aggregate.types) do counted_for_everybody[type] = true end
        for type in pairs(aggregate.of) do counted_for_everybody[type] = true end
      end
    end
  end
  return declared_last, counted_for_everybody, tonumber(moment or NEVER)
end

-- Of an event: its id, session, user or '', type, item or '', Unix seconds, value or '', terms.
local function event_of(id, session, user, type, item, time, value, terms)
  return {
    id = id, session = session, user = user, type = type, item = item, stamp = time,
    time = tonumber(time), value = tonumber(value), price = terms.price,
    categories = terms.category or {}
  }
end

local function tell(changes)
  for at = 1, #changes, 1000 do
    local last = math.min(at + 999, #changes)
    redis.call('XADD', CHANGES, 'MAXLEN', '~', CHANGES_KEPT, '*', unpack(changes, at, last))
  end
end

-- own: only in what is kept for the visitor.
local function count_in_all(aggregates, event, ttl, own)
  local changes = {}
  for _, aggregate in ipairs(aggregates) do
    if not (own and for_everybody(aggregate)) then count(aggregate, event, ttl, changes) end
  end
  tell(changes)
end

-- The events of a session that are still held. Their user is not: it is asked for by nothing that is
-- shown to everybody.
local function events_held(session)
  local events = {}
  for _, key in ipairs({events_of(session), aside_of(session)}) do
    for _, payload in ipairs(redis.call('LRANGE', key, 0, -1)) do
      local told = cjson.decode(payload)
      local stamp = string.format('%.17g', told.timestamp)
      events[#events + 1] = event_of(
        told.event_id, session, '', told.type, told.item_id or '', stamp, told.value,
        told.terms or {}
      )
    end
  end
  return events
end

-- Scores an event by how fast the session's come, a count that decays, how often its item did, and
-- how many there are as long as all are of one type and one item, else 0; those without an item do
-- not matter to that. this: its type and item; now: when it arrived, it may claim any time.
-- scores: as they are kept: the velocity, the moment it is of and how many are alike, and what they are.
local function suspicion(meta, scores, item, this, now)
  local velocity, of, alike = struct.unpack('<ddd', scores)
  velocity = velocity * 2 ^ (math.min(0, of - now) / VELOCITY_HALF_LIFE) + 1
  local what, repetition = string.sub(scores, #UNSCORED + 1), 0
  if item ~= '' then
    repetition = redis.call('HINCRBY', meta, 'item:' .. item, 1)
    if what == '' then what = this end
    if alike >= 0 then alike = what == this and alike + 1 or -1 end
  end
  redis.call('HSET', meta, 'scores', struct.pack('<ddd', velocity, now, alike) .. what)
  return velocity, repetition, math.max(0, alike)
end

-- Which limit scores are beyond.
local function beyond(velocity, repetition, alike)
  if velocity > tonumber(ARGV[8]) then return 'velocity' end
  if repetition > tonumber(ARGV[9]) then return 'repetition' end
  return alike > tonumber(ARGV[10]) and 'alike' or nil
end

local function told_of(since, velocity, repetition, why, this)
  local told = string.format('%s %.1f %d %s', since, velocity, repetition, why)
  return why == 'alike' and told .. ' ' .. this or told
end

-- Takes out what a session counted for everybody, and says so in the log. told: of the session; keep:
-- seconds that it is remembered.
local function quarantine(aggregates, session, velocity, repetition, told, now, keep, log)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', SINCE, '-inf', now - keep, 'LIMIT', 0, 10)) do
    redis.call('HDEL', QUARANTINE, old)
    redis.call('ZREM', SINCE, old)
  end
  redis.call('HSET', QUARANTINE, session, told)
  redis.call('ZADD', SINCE, now, session)
  redis.call(
    'XADD', log, '*', 'q', session, 'velocity', string.format('%.1f', velocity),
    'repetition', repetition
  )
  local events, changes = events_held(session), {}
  for _, aggregate in ipairs(aggregates) do
    if for_everybody(aggregate) then uncount(aggregate, session, events, changes) end
  end
  tell(changes)
end

-- Counts what a session in quarantine did, as far as it is held, and says so in the log. Returns the
-- moment of the latest event, which may be one of them, and how it is written.
local function let_out(aggregates, session, ttl, log, moment, stamp)
  redis.call('XADD', log, '*', 'r', session)
  local changes = {}
  for _, event in ipairs(events_held(session)) do
    for _, aggregate in ipairs(aggregates) do
      if for_everybody(aggregate) then count(aggregate, event, ttl, changes) end
    end
    if event.time > moment then moment, stamp = event.time, event.stamp end
  end
  tell(changes)
  return moment, stamp
end

local function in_quarantine(session)
  local told = redis.call('HGET', QUARANTINE, session)
  return told and told ~= 'released'
end

-- ARGV: session_cap, user_cap, session_ttl, user_ttl, dedup_ttl, the most entries of a partition of
-- the log while nobody reads it, the velocity, the repetition and the number of events that are all
-- alike above which a session is put into quarantine, the Unix seconds of now, then per event: '1' if its
-- id is the client's, id, session, user or '', type, item or '', Unix seconds, value or '', '1' if it
-- goes to the log only, partition, payload.
-- Returns accepted, duplicates, sessions put into quarantine, then session and version of each session
-- named.
local function append()
  local session_cap, user_cap, session_ttl, user_ttl, dedup_ttl, maxlen = unpack(ARGV, 2, 7)
  local now = tonumber(ARGV[11])
  local accepted, duplicates, quarantined = 0, 0, 0
  local unread = redis.call('EXISTS', log_of('reading')) == 0
  -- taken_out: of these types events have to be kept for it.
  local aggregates, taken_out, latest = declared()
  local latest_stamp, versions = nil, {}
  for at = 12, #ARGV, EVENT do
    local given, id, session, user, type, item, stamp, value = unpack(ARGV, at, at + 7)
    local log_only, partition, payload = unpack(ARGV, at + 8, at + 10)
    if given == '1' and not redis.call('SET', seen_of(id), '', 'NX', 'EX', dedup_ttl) then
      duplicates = duplicates + 1
    else
      accepted = accepted + 1
      local terms = item ~= '' and redis.call('HGET', ITEM_TERMS, item)
      if terms then payload = string.sub(payload, 1, -2) .. ',"terms":' .. terms .. '}' end
      local meta, events, log = meta_of(session), events_of(session), log_of(partition)
      local known_user, scores = unpack(redis.call('HMGET', meta, 'user', 'scores'))
      if user ~= '' then
        join(session, user, user_cap, session_ttl, user_ttl)
      else
        user = known_user or ''
      end
      versions[session] = redis.call('HINCRBY', meta, 'version', 1)
      redis.call('EXPIRE', meta, session_ttl)
      local known = redis.call('HGET', QUARANTINE, session)
      if log_only ~= '1' and known ~= 'released' then
        local this = type .. ' ' .. item
        local velocity, repetition, alike = suspicion(meta, scores or UNSCORED, item, this, now)
        local why = beyond(velocity, repetition, alike)
        local since, only = string.match(known or '', '^(%S+) %S+ %S+ alike (.*)$')
        if why and not known then
          known = told_of(string.format('%.3f', now), velocity, repetition, why, this)
          quarantine(aggregates, session, velocity, repetition, known, now, user_ttl, log)
          quarantined = quarantined + 1
        elseif only and why and why ~= 'alike' then  -- for good
          known = told_of(since, velocity, repetition, why)
          redis.call('HSET', QUARANTINE, session, known)
        elseif only and item ~= '' and this ~= only then  -- it does something else
          redis.call('HDEL', QUARANTINE, session)
          redis.call('ZREM', SINCE, session)
          latest, latest_stamp = let_out(aggregates, session, session_ttl, log, latest, latest_stamp)
          known = false
        end
        -- Not forgotten while there are events that do not count.
        if known then redis.call('ZADD', SINCE, now, session) end
      end
      local aside = known and known ~= 'released'
      if log_only == '1' then
        redis.call('EXPIRE', events, session_ttl)
        if taken_out[type] then push(aside_of(session), payload, ASIDE, session_ttl) end
      else
        push(events, payload, session_cap, session_ttl)
        if user ~= '' then
          push(user_of(user), payload, user_cap, user_ttl)
          hold(session, user, user_ttl)
        end
      end
      local entry = {'e', payload}
      if user ~= '' then entry[3], entry[4] = 'u', user end
      redis.call('XADD', log, '*', unpack(entry))
      if unread then redis.call('XTRIM', log, 'MAXLEN', '~', maxlen) end
      local said = terms and cjson.decode(terms) or {}
      local event = event_of(id, session, user, type, item, stamp, value, said)
      if #aggregates > 0 then count_in_all(aggregates, event, session_ttl, aside) end
      if event.time > latest and not aside then latest, latest_stamp = event.time, stamp end
    end
  end
  if latest_stamp then redis.call('HSET', AGGREGATES, 'moment', latest_stamp) end
  local reply, named = {accepted, duplicates, quarantined}, {}
  for at = 12, #ARGV, EVENT do
    local session = ARGV[at + 2]
    if not named[session] then
      named[session] = true
      reply[#reply + 1] = session
      reply[#reply + 1] = versions[session] or version_of(session)
    end
  end
  return reply
end

-- ARGV: session, its partition, session_ttl. Counts what a session in quarantine did, as far as it is
-- held, and lets it count from now on; returns 1, or 0 for one that is not in quarantine.
local function release()
  local session, partition, ttl = unpack(ARGV, 2, 4)
  if not in_quarantine(session) then return 0 end
  redis.call('HSET', QUARANTINE, session, 'released')
  local aggregates, _, moment = declared()
  local _, stamp = let_out(aggregates, session, ttl, log_of(partition), moment, nil)
  if stamp then redis.call('HSET', AGGREGATES, 'moment', stamp) end
  return 1
end

-- Returns the sessions in quarantine and those released, and of each what is known, in turn.
local function quarantined() return redis.call('HGETALL', QUARANTINE) end

-- What is known of an item from now on, and its terms, both '' for a deleted one.
local function put_item(item, data, terms)
  redis.call('HSET', ITEMS, item, data)
  if terms ~= '' then
    redis.call('HSET', ITEM_TERMS, item, terms)
  else
    redis.call('HDEL', ITEM_TERMS, item)
  end
  redis.call('XADD', ITEM_CHANGES, 'MAXLEN', '~', ITEM_CHANGES_KEPT, '*', 'i', item, 'd', data)
end

-- ARGV: per item its id, what a change began from ('' for nothing), what comes of it, the terms then.
-- Puts an item of which the same is known still, and that no change of this call has missed before.
-- Returns for each 1, or what is known of it by now.
local function put_items()
  local reply, missed = {}, {}
  for at = 2, #ARGV, 4 do
    local item, before, after, terms = unpack(ARGV, at, at + 3)
    local now = redis.call('HGET', ITEMS, item) or ''
    if now == before and not missed[item] then
      if after ~= now then put_item(item, after, terms) end
      reply[#reply + 1] = 1
    else
      missed[item] = true
      reply[#reply + 1] = now
    end
  end
  return reply
end

-- ARGV: item. Its id stays behind, so that a bundle that knows it does not show it.
local function delete_item()
  if redis.call('HGET', ITEMS, ARGV[2]) ~= '' then put_item(ARGV[2], '', '') end
end

-- ARGV: item. Returns what is known of it.
local function item() return redis.call('HGET', ITEMS, ARGV[2]) end

-- ARGV: cursor, how many items at a time. Returns the last place in the stream of changes, the next
-- cursor, and ids and what is known of them in turn.
local function items()
  local last = redis.call('XREVRANGE', ITEM_CHANGES, '+', '-', 'COUNT', 1)[1]
  local found = redis.call('HSCAN', ITEMS, ARGV[2], 'COUNT', ARGV[3])
  return {last and last[1] or '0-0', found[1], found[2]}
end

-- ARGV: a place in the stream of items' changes, how many at most.
local function follow_items() return items_since(ARGV[2], ARGV[3]) end

-- The place after which all that comes into a partition of the log lies: its last one, or that of
-- the millisecond before, which is behind those of a log that was lost.
local function end_of(partition)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = redis.call('XREVRANGE', log_of(partition), '+', '-', 'COUNT', 1)[1]
  if last and tonumber(string.match(last[1], '^%d+')) >= now then return last[1] end
  return string.format('%d-%d', now - 1, 2 ^ 50)
end

-- ARGV: a name that no epoch has had, how many partitions the log may have, definitions as JSON.
-- Statistics that are declared already go on; the others begin, and those that are declared no
-- longer end.
local function declare()
  local before, same, visitor, texts = {}, true, {}, {}
  for _, aggregate in ipairs(declared()) do before[aggregate.id] = aggregate end
  for at = 4, #ARGV do
    local aggregate = cjson.decode(ARGV[at])
    local known = before[aggregate.id]
    before[aggregate.id] = nil
    if not known then
      same = false
      for partition = 0, ARGV[3] - 1 do
        redis.call('HSET', filled_of(aggregate.id), 'after:' .. partition, end_of(partition))
      end
    end
    local born = known and known.born or ARGV[2]
    texts[#texts + 1] = '{"born":"' .. born .. '",' .. string.sub(ARGV[at], 2)
    if aggregate.key == 'user' or aggregate.key == 'session' then
      visitor[#visitor + 1] = aggregate.id .. '=' .. aggregate.key
    end
  end
  for id in pairs(before) do
    same = false
    redis.call('UNLINK', rows_of(id), filled_of(id))
  end
  if not same then
    local all, told = '[' .. table.concat(texts, ',') .. ']', table.concat(visitor, ' ')
    redis.call('HSET', AGGREGATES, 'declared', all, 'epoch', ARGV[2], 'visitor', told)
  end
end

-- ARGV: partitions of the log. Returns what is declared, as JSON, and what is still to be filled in
-- from these: id, partition, the place after which the stream counted, how many chunks were, in turn.
local function unfilled()
  local reply = {redis.call('HGET', AGGREGATES, 'declared') or '[]'}
  for _, aggregate in ipairs(declared()) do
    for at = 2, #ARGV do
      local partition = ARGV[at]
      local filled = filled_of(aggregate.id)
      local after, chunks = unpack(redis.call('HMGET', filled, 'after:' .. partition, partition))
      if after and chunks ~= 'done' then
        for _, part in ipairs({aggregate.id, partition, after, chunks or '0'}) do
          reply[#reply + 1] = part
        end
      end
    end
  end
  return reply
end

-- Puts a row together with that of the same key. Each cell as if its events came now.
local function add_row(aggregate, key, row)
  local untold = {}
  for cell = 0, aggregate.cells - 1 do
    local first, second = struct.unpack('<dd', row, cell * CELL + 1)
    if second == NEVER then
      -- nothing is in it
    elseif aggregate.kind == 'last_value' then
      set_last(aggregate, key, second, first, untold)
    elseif aggregate.cells == STEPS then
      add_in_window(aggregate, key, second, first, untold)
    else
      decay(aggregate, key, cell, second, first, untold)
    end
  end
end

-- Fills in some of what was before an aggregate was declared. ARGV: its id, a source, which chunk of
-- it, from 0, '' or, with the last, 'done'; the moment, a name for a new epoch or ''; how many rows,
-- keys and rows; events as event_of takes them, terms as JSON, and before them the seconds that a
-- session is kept.
-- A chunk is taken once, in its turn; returns how many were, -1 if the aggregate is not declared.
local function fill()
  local id, source, number, last, moment, epoch, rows = unpack(ARGV, 2, 8)
  local aggregate
  for _, one in ipairs(declared()) do
    if one.id == id then aggregate = one end
  end
  if not aggregate then return -1 end
  local filled = redis.call('HGET', filled_of(id), source) or '0'
  if filled ~= number then return filled == 'done' and -1 or tonumber(filled) end
  for at = 9, 8 + 2 * rows, 2 do add_row(aggregate, ARGV[at], ARGV[at + 1]) end
  local ttl = ARGV[9 + 2 * rows]
  for at = 10 + 2 * rows, #ARGV, 8 do
    local id, session, user, type, item, stamp, value, terms = unpack(ARGV, at, at + 7)
    local event = event_of(id, session, user, type, item, stamp, value, cjson.decode(terms))
    if not (for_everybody(aggregate) and in_quarantine(event.session)) then
      count(aggregate, event, ttl, {})
    end
  end
  redis.call('HSET', filled_of(id), source, last == 'done' and last or number + 1)
  if tonumber(moment) > tonumber(redis.call('HGET', AGGREGATES, 'moment') or NEVER) then
    redis.call('HSET', AGGREGATES, 'moment', moment)
  end
  -- Mirrors read the rows anew rather than each change.
  if epoch ~= '' then redis.call('HSET', AGGREGATES, 'epoch', epoch) end
  return number + 1
end

-- ARGV: cursor, id of an aggregate, how many rows at a time, the second double below which a cell is
-- worth nothing. Forgets rows of such cells alone; returns the next cursor.
local function sweep()
  local cursor, id, most, oldest = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
  local found = redis.call('HSCAN', rows_of(id), cursor, 'COUNT', most)
  for at = 1, #found[2], 2 do
    local row, alive = found[2][at + 1], false
    for byte = CELL / 2 + 1, #row, CELL do
      alive = alive or struct.unpack('<d', row, byte) >= oldest
    end
    if not alive then redis.call('HDEL', rows_of(id), found[2][at]) end
  end
  return found[1]
end

-- ARGV: cursor, id of an aggregate, how many rows at a time. Returns the next cursor, and keys and
-- rows in turn.
local function rows()
  local cursor, id, most = unpack(ARGV, 2, 4)
  return redis.call('HSCAN', rows_of(id), cursor, 'COUNT', most)
end

-- Returns the epoch, the moment and the last place in the stream of changes.
local function seen()
  local epoch, moment = unpack(redis.call('HMGET', AGGREGATES, 'epoch', 'moment'))
  local last = redis.call('XREVRANGE', CHANGES, '+', '-', 'COUNT', 1)[1]
  return {epoch or '', moment or '', last and last[1] or '0-0'}
end

-- ARGV: a place in the stream of changes, how many at most.
local function follow() return changed_since(ARGV[2], ARGV[3]) end

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
  redis.call('DEL', aside_of(session))
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

local function quality_of(bundle) return PREFIX .. 'quality:' .. bundle end
local function probation_of(name) return PREFIX .. 'probation:' .. name end

-- ARGV: quality_ttl, a probation or '', a digest of the visitor, then bundles and '1' if their list
-- held the event's item, else '0', in turn; of a probation the new one first and the former then.
local function score()
  local ttl, name, visitor = unpack(ARGV, 2, 4)
  for at = 5, #ARGV, 2 do
    local quality = quality_of(ARGV[at])
    redis.call('HINCRBY', quality, 'scored', 1)
    redis.call('HINCRBY', quality, 'hits', ARGV[at + 1])
    redis.call('EXPIRE', quality, ttl)
  end
  local counts, own, former = probation_of(name), ARGV[6], ARGV[8]
  if name == '' or redis.call('HEXISTS', counts, 'ended') == 1 then return end
  redis.call('HINCRBY', counts, 'scored', 1)
  redis.call('HINCRBY', counts, 'own_hits', own)
  redis.call('HINCRBY', counts, 'former_hits', former)
  if own ~= former and redis.call('SADD', counts .. ':visitors', visitor) == 1 then
    redis.call('HINCRBY', counts, own == '1' and 'own_only' or 'former_only', 1)
  end
  redis.call('EXPIRE', counts, ttl)
  redis.call('EXPIRE', counts .. ':visitors', ttl)
end

-- ARGV: bundles. Returns scored and hits of each.
local function quality()
  local reply = {}
  for at = 2, #ARGV do
    local found = redis.call('HMGET', quality_of(ARGV[at]), 'scored', 'hits')
    reply[#reply + 1] = tonumber(found[1] or 0)
    reply[#reply + 1] = tonumber(found[2] or 0)
  end
  return reply
end

-- ARGV: a probation. Returns its fields and their values in turn.
local function probation() return redis.call('HGETALL', probation_of(ARGV[2])) end

-- ARGV: a probation, quality_ttl, how it ended; who says so first counts.
local function end_probation()
  local name, ttl, how = unpack(ARGV, 2, 4)
  redis.call('HSETNX', probation_of(name), 'ended', how)
  redis.call('EXPIRE', probation_of(name), ttl)
  redis.call('UNLINK', probation_of(name) .. ':visitors')
end

local operations = {
  read = read, append = append,
  identify = identify, forget = forget, lag = lag,
  declare = declare, unfilled = unfilled, fill = fill, rows = rows, sweep = sweep, seen = seen,
  follow = follow,
  put_items = put_items, delete_item = delete_item, item = item, items = items,
  follow_items = follow_items, score = score, quality = quality, probation = probation,
  end_probation = end_probation, release = release, quarantined = quarantined
}
return function(keys, arguments)
  if keys[1] ~= PREFIX then name_by(keys[1]) end
  ARGV = arguments
  return operations[ARGV[1]]()
end
