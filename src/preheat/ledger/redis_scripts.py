"""The ledger's operations as Lua, one script each: Redis runs a script as one step.

A record is a hash: fingerprint, fence, attempt, lease and expires (milliseconds of the server's clock; a
lease of 0 was given up or is done), outcome once it is done, request where one was stored. KEYS: the record,
and the sorted set of the records with a request that are not done, by the end of their lease.
"""

from __future__ import annotations

_PRELUDE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function known(lease, expires)
  return lease and (tonumber(lease) > now or tonumber(expires) > now)
end
-- Only frees space, a minute after the last reader would have looked.
local function free_after(lease, expires)
  redis.call('PEXPIRE', KEYS[1], math.max(lease, expires) - now + 60000)
end
local function finish(fence, outcome, keep)
  redis.call('HSET', KEYS[1], 'fence', fence, 'lease', 0, 'expires', now + keep, 'outcome', outcome)
  free_after(0, now + keep)
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {1}
end
local function standing(expires)
  if expires and tonumber(expires) > now then
    return {0, redis.call('HGET', KEYS[1], 'outcome')}
  end
  return {0, false}
end
"""

# ARGV: key, fingerprint, fence, lease, keep, request
CLAIM = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'fingerprint', 'fence', 'attempt', 'lease', 'expires')
local lease, expires = now + ARGV[4], now + ARGV[5]
if not known(r[4], r[5]) then
  if r[1] then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
  end
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'fence', ARGV[3], 'attempt', 1,
             'lease', lease, 'expires', expires)
  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[1], 'request', ARGV[6])
    redis.call('ZADD', KEYS[2], lease, ARGV[1])
  end
  free_after(lease, expires)
  return {'claimed', 1, ARGV[6]}
end
if r[1] ~= ARGV[2] then return {'mismatch'} end
local outcome = redis.call('HGET', KEYS[1], 'outcome')
if outcome then return {'replay', outcome} end
local attempt = tonumber(r[3])
if r[2] ~= ARGV[3] then
  if tonumber(r[4]) > now then return {'running', tonumber(r[4]) - now} end
  attempt = attempt + 1
end
redis.call('HSET', KEYS[1], 'fence', ARGV[3], 'attempt', attempt, 'lease', lease, 'expires', expires)
free_after(lease, expires)
local request = redis.call('HGET', KEYS[1], 'request')
if request then redis.call('ZADD', KEYS[2], lease, ARGV[1]) end
return {'claimed', attempt, request or ''}
"""
)

# ARGV: key, fence, lease
HEARTBEAT = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'fence', 'lease', 'expires')
if r[1] ~= ARGV[2] or tonumber(r[2]) == 0 then return 0 end
local lease = now + ARGV[3]
redis.call('HSET', KEYS[1], 'lease', lease)
free_after(lease, tonumber(r[3]))
if redis.call('HEXISTS', KEYS[1], 'request') == 1 then redis.call('ZADD', KEYS[2], lease, ARGV[1]) end
return 1
"""
)

# ARGV: key, fence, outcome, keep
COMMIT = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'fence', 'expires')
if r[1] == ARGV[2] and redis.call('HEXISTS', KEYS[1], 'outcome') == 0 then
  return finish(ARGV[2], ARGV[3], ARGV[4])
end
return standing(r[2])
"""
)

# ARGV: key, fence, outcome, keep
CANCEL = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'lease', 'expires')
if known(r[1], r[2]) and redis.call('HEXISTS', KEYS[1], 'outcome') == 0 then
  return finish(ARGV[2], ARGV[3], ARGV[4])
end
return standing(r[2])
"""
)

# ARGV: key, fence
RELEASE = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'outcome') == 1 then return 0 end
if redis.call('HEXISTS', KEYS[1], 'request') == 1 then
  redis.call('HSET', KEYS[1], 'lease', 0)
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
else
  redis.call('DEL', KEYS[1])
end
return 1
"""

# ARGV: key
READ = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'fingerprint', 'attempt', 'lease', 'expires', 'outcome', 'request')
if not known(r[3], r[4]) then return false end
return {r[1], tonumber(r[2]), math.max(tonumber(r[3]) - now, 0), r[5], r[6]}
"""
)

# ARGV: key
REMOVE = (
    _PRELUDE
    + """
local r = redis.call('HMGET', KEYS[1], 'lease', 'expires')
if not known(r[1], r[2]) or redis.call('HEXISTS', KEYS[1], 'outcome') == 0 then return 0 end
return redis.call('DEL', KEYS[1])
"""
)

# KEYS: the sorted set. ARGV: what precedes a key in its record's name, limit
PENDING = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local found, stale = {}, 0
while #found < 2 * ARGV[2] and stale < 1000 do
  local key = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', #found / 2, 1)[1]
  if not key then break end
  local r = redis.call('HMGET', ARGV[1] .. key, 'fingerprint', 'expires')
  if r[1] and tonumber(r[2]) > now then
    table.insert(found, key)
    table.insert(found, r[1])
  else
    redis.call('ZREM', KEYS[1], key)
    stale = stale + 1
  end
end
return found
"""
