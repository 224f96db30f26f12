"""The Lua scripts of a `Redis` store: what has to change together, or not to be sent to the client."""

from __future__ import annotations

# The keys of a store
# -------------------
#
# All of them have the same hash tag, the name of the stream, so that in a cluster one server has them. With the stream
# ``mail`` they are:
#
# * ``mail``, the stream, with an entry for each message. The id of the message in the store is that of the entry.
# * ``{mail}:chunks:KEY``, a list with the first octets of a large message. Its entry has ``key`` and their number.
# * ``{mail}:group:GROUP:due``, a sorted set of the messages that a group has begun and not settled. The score is the time at
#   which one can be claimed: the end of its lease, or the time of its next attempt.
# * ``{mail}:group:GROUP:records``, a hash with the attempts, state, token and consumer of these messages and of dead letters.
# * ``{mail}:group:GROUP:dead``, a sorted set of the dead letters.
#
# Which messages a group has not begun is known to the consumer group of the stream. Its list of pending entries has the
# others that are not settled, each with the consumer that has it, so that XPENDING and XINFO are useful for an operator. It
# does not decide when a message is delivered again: XAUTOCLAIM knows only when an entry was delivered, and has no retry
# after an hour, no lease of a claim and no state. The entries that no consumer has belong to the consumer ``waiting``. Other
# consumers are deleted when they have no entry, since most have a name that is used once.
#
# A script is executed as a whole and replicated as the commands that it has executed. If the server ends in between, none of
# them is in its append-only file.

FUNCTIONS = """
local function group_key(group, name) return '{' .. KEYS[1] .. '}:group:' .. group .. ':' .. name end
local function chunks_key(key) return '{' .. KEYS[1] .. '}:chunks:' .. key end

local function field(entry, name)
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

local function entry_of(id) return redis.call('XRANGE', KEYS[1], id, id)[1] end

local function record_of(group, id)
  local text = redis.call('HGET', group_key(group, 'records'), id)
  if text then return cjson.decode(text) end
  return {attempts = 0, state = '', token = '', name = '', reason = ''}
end

local function save(group, id, record)
  redis.call('HSET', group_key(group, 'records'), id, cjson.encode(record))
end

local function leave(group, name)
  if name == '' or name == 'waiting' then return end
  local pending = redis.pcall('XPENDING', KEYS[1], group, '-', '+', 1, name)
  if not pending.err and #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, name) end
end

local function give(group, id, name)
  redis.call('XCLAIM', KEYS[1], group, name, 0, id, 'FORCE', 'JUSTID')
end

local function forget(group, id)
  local name = record_of(group, id).name
  redis.call('ZREM', group_key(group, 'due'), id)
  redis.call('ZREM', group_key(group, 'dead'), id)
  redis.call('HDEL', group_key(group, 'records'), id)
  redis.call('XACK', KEYS[1], group, id)
  leave(group, name)
end

local function bury(group, id, record)
  local name = record.name
  record.token = ''
  record.name = ''
  save(group, id, record)
  redis.call('ZREM', group_key(group, 'due'), id)
  redis.call('ZADD', group_key(group, 'dead'), string.match(id, '^%d+'), id)
  redis.call('XACK', KEYS[1], group, id)
  leave(group, name)
end

local function remove(id)
  local entry = entry_of(id)
  if not entry then return 0 end
  local key = field(entry, 'key')
  if key then redis.call('DEL', chunks_key(key)) end
  redis.call('XDEL', KEYS[1], id)
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do forget(info[2], id) end
  return 1
end

local function shorten(entry, most)
  local fields = entry[2]
  local key = field(entry, 'key')
  for i = 1, #fields, 2 do
    if fields[i] == 'message' then
      local start = fields[i + 1]
      if key then start = (redis.call('LINDEX', chunks_key(key), 0) or '') .. start end
      start = string.sub(start, 1, most)
      local stop = string.find(start, '\\r\\n\\r\\n', 1, true)
      fields[i + 1] = stop and string.sub(start, 1, stop + 3) or start
    end
  end
  return entry
end
"""

#: Add an entry whose chunks were written before, and keep them. ARGV: the number of chunks, the fields of the entry.
PUBLISH = """
if redis.call('LLEN', KEYS[2]) ~= tonumber(ARGV[1]) then
  return redis.error_reply('CHUNKS the first octets of the message are not complete any more')
end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('PERSIST', KEYS[2])
return id
"""

#: Delete chunks, unless an entry has them.
WITHDRAW = "if redis.call('PTTL', KEYS[1]) >= 0 then return redis.call('DEL', KEYS[1]) end return 0"

#: Return entries without most of their octets. ARGV: XRANGE or XREVRANGE, two ends, the number of entries, of octets.
LIST = (
    FUNCTIONS
    + """
local found = redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
for _, entry in ipairs(found) do shorten(entry, tonumber(ARGV[5])) end
return found
"""
)

#: Return those ids that the stream has. ARGV: ids.
PRESENT = (
    FUNCTIONS
    + """
local found = {}
for _, id in ipairs(ARGV) do
  if entry_of(id) then table.insert(found, id) end
end
return found
"""
)

#: Remove messages and what the groups know of them. ARGV: ids. Returns how many there were.
REMOVE = (
    FUNCTIONS
    + """
local count = 0
for _, id in ipairs(ARGV) do count = count + remove(id) end
return count
"""
)

# A message that the group has not begun is first moved to those that are due. So there is one order for all of them.
#
#: Claim the message that has waited longest. ARGV: group, consumer, time, end of the lease, attempts, token. Returns id,
#: fields, attempt and state; or, if none is due, an empty list and the id of the last entry that the group has begun.
CLAIM = (
    FUNCTIONS
    + """
local group, name, now, expiry, most, token = unpack(ARGV)
local read = {'XREADGROUP', 'GROUP', group, 'waiting', 'COUNT', 1, 'STREAMS', KEYS[1], '>'}
local fresh = redis.pcall(unpack(read))
if fresh and fresh.err then
  if not string.find(fresh.err, 'NOGROUP', 1, true) then return fresh end
  redis.call('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM')
  fresh = redis.call(unpack(read))
end
if fresh then
  local id = fresh[1][2][1][1]
  local stored, number = string.match(id, '^(%d+)-(%d+)$')
  local since = tonumber(stored) / 1000 + math.min(tonumber(number), 999) / 1e6
  redis.call('ZADD', group_key(group, 'due'), string.format('%.6f', math.min(since, tonumber(now))), id)
end
for _ = 1, 1000 do
  local id = redis.call('ZRANGEBYSCORE', group_key(group, 'due'), '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then break end
  local entry = entry_of(id)
  local record = record_of(group, id)
  if not entry then
    forget(group, id)
  elseif record.attempts >= tonumber(most) then
    record.reason = 'the lease of attempt ' .. record.attempts .. ' has expired'
    bury(group, id, record)
  else
    local before = record.name
    record.attempts = record.attempts + 1
    record.token = token
    record.name = name
    redis.call('ZADD', group_key(group, 'due'), expiry, id)
    save(group, id, record)
    give(group, id, name)
    if before ~= name then leave(group, before) end
    return {id, entry[2], record.attempts, record.state}
  end
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  if info[2] == group then
    for i = 1, #info, 2 do
      if info[i] == 'last-delivered-id' then return {'', {}, 0, info[i + 1]} end
    end
  end
end
"""
)

#: Record what has become of a claim. ARGV: group, id, token, kind, remove, time of the next attempt, reason, state, uncounted.
#: Returns 0 if another consumer has the message. One that was removed meanwhile can be settled.
SETTLE = (
    FUNCTIONS
    + """
local group, id, token, kind, removed, at, reason, state, uncounted = unpack(ARGV)
local record = record_of(group, id)
if record.token ~= token then return entry_of(id) and 0 or 1 end
if uncounted == '1' then record.attempts = record.attempts - 1 end
record.state = state
record.reason = reason
if kind == 'done' then
  if removed == '1' then remove(id) else forget(group, id) end
elseif kind == 'dead' then
  bury(group, id, record)
else
  local name = record.name
  record.token = ''
  record.name = ''
  save(group, id, record)
  redis.call('ZADD', group_key(group, 'due'), at, id)
  give(group, id, 'waiting')
  leave(group, name)
end
return 1
"""
)

#: Return the entries of dead letters, without most of their octets, and their records. ARGV: group, octets, ids.
DEAD = (
    FUNCTIONS
    + """
local found = {}
for i = 3, #ARGV do
  local entry = entry_of(ARGV[i])
  local record = redis.call('HGET', group_key(ARGV[1], 'records'), ARGV[i])
  if entry and record then table.insert(found, {shorten(entry, tonumber(ARGV[2])), record}) end
end
return found
"""
)

# The messages that a group has not begun are counted by the server (``lag``, since Redis 7). It is nil while the number is
# unknown, because one of them was removed. Of those that were begun, ``due`` has the ones that are not settled, and the list
# of pending entries tells which of these a consumer has; `due` then tells whether the lease has expired.
#
#: Count the messages that groups have not settled. ARGV: time. Returns for each group its name, those that wait (-1 if that
#: is unknown), those in flight, and dead letters.
COUNTS = (
    FUNCTIONS
    + """
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  if string.find(groups.err, 'no such key', 1, true) then return {} end
  return groups
end
local found = {}
for _, fields in ipairs(groups) do
  local info = {}
  for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
  local group, flight = info.name, 0
  for _, pair in ipairs(redis.call('XPENDING', KEYS[1], group)[4] or {}) do
    local start = '-'
    while pair[1] ~= 'waiting' and start do
      local pending = redis.call('XPENDING', KEYS[1], group, start, '+', 1000, pair[1])
      for _, entry in ipairs(pending) do
        local due = redis.call('ZSCORE', group_key(group, 'due'), entry[1])
        if due and tonumber(due) > tonumber(ARGV[1]) then flight = flight + 1 end
      end
      start = #pending == 1000 and '(' .. pending[1000][1]
    end
  end
  local begun = redis.call('ZCARD', group_key(group, 'due'))
  local waiting = info.lag and info.lag + begun - flight or -1
  table.insert(found, {group, waiting, flight, redis.call('ZCARD', group_key(group, 'dead'))})
end
return found
"""
)

#: Make dead letters due. ARGV: group, time, ids. Returns how many there were.
REQUEUE = (
    FUNCTIONS
    + """
local group, count = ARGV[1], 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('ZREM', group_key(group, 'dead'), id) == 1 then
    if entry_of(id) then
      local record = record_of(group, id)
      record.attempts = 0
      record.reason = ''
      save(group, id, record)
      redis.call('ZADD', group_key(group, 'due'), ARGV[2], id)
      give(group, id, 'waiting')
      count = count + 1
    else
      redis.call('HDEL', group_key(group, 'records'), id)
    end
  end
end
return count
"""
)
