-- One cached entry in one key, and every step it can take. ARGV[1] names the step; docs/why/cache.md says why each exists.
--
--   V prefix expiry8 load4 length2 snapshot payload   a value, and the snapshot of PostgreSQL it was read in
--   L token16 | needs | prefix                        a lease: whoever holds the token is loading
--   T needs                                           a tombstone: fills must have seen these transactions
--   D token,token | needs                             marked by writers that are about to commit: read PostgreSQL
--
-- `needs` is `floor;xid,xid`: a fill must have seen each xid, and every transaction up to the floor must have ended.
local TOMBSTONE_MS = 5000
local NEEDS_MAX = 8
local ROW_PREFIX = 11

local function seen(xid, snapshot)
  local xmin, xmax, running = string.match(snapshot, '^(%d+):(%d+):(.*)$')
  local x = tonumber(xid)
  if x < tonumber(xmin) then return true end
  if x >= tonumber(xmax) then return false end
  for one in string.gmatch(running, '%d+') do
    if tonumber(one) == x then return false end
  end
  return true
end

local function fulfilled(needs, snapshot)
  local floor, xids = string.match(needs, '^(%d+);(.*)$')
  if tonumber(floor) > 0 and tonumber(string.match(snapshot, '^%d+')) <= tonumber(floor) then return false end
  for xid in string.gmatch(xids, '%d+') do
    if not seen(xid, snapshot) then return false end
  end
  return true
end

local function with(needs, xid)
  local floor, xids = string.match(needs, '^(%d+);(.*)$')
  local list, highest = {}, tonumber(floor)
  for one in string.gmatch(xids, '%d+') do
    if one == xid then return needs end
    list[#list + 1] = one
  end
  list[#list + 1] = xid
  if #list <= NEEDS_MAX then return floor .. ';' .. table.concat(list, ',') end
  for _, one in ipairs(list) do highest = math.max(highest, tonumber(one)) end
  return string.format('%.0f;', highest)
end

local function snapshot_of(value, prefix_length)
  local at = prefix_length + 13
  local length = string.byte(value, at) * 256 + string.byte(value, at + 1)
  return string.sub(value, at + 2, at + 1 + length)
end

-- Without room for it, nothing is kept, which is always safe: a fill without its lease is refused.
local function put(key, value, ms)
  local done = redis.pcall('SET', key, value, 'PX', ms)
  if type(done) == 'table' and done.err then
    redis.call('DEL', key)
    return false
  end
  return true
end

-- Marks, cursor and guard are kept even by a full Valkey: it lets a script write on that has begun by taking away.
local function must(key, ...)
  local done = redis.pcall('SET', key, ...)
  if type(done) == 'table' and done.err then
    redis.call('DEL', key)
    redis.call('SET', key, ...)
  end
end

local function bury(key, needs)
  if needs == '0;' then redis.call('DEL', key) else put(key, 'T' .. needs, TOMBSTONE_MS) end
end

local function lease_of(value)
  return string.match(value, '^L(.-)|(%d+;[%d,]*)|')
end

local function needs_of(value)
  local kind = value and string.sub(value, 1, 1)
  if kind == 'T' then return string.sub(value, 2) end
  if kind == 'D' then return string.match(value, '|(.*)$') end
  if kind == 'L' then return select(2, lease_of(value)) end
  return '0;'
end

local function lease_prefix(value)
  return string.sub(value, select(2, string.find(value, '^L.-|%d+;[%d,]*|')) + 1)
end

-- A row has changed. With `xid` the change is known, and what has seen it stays; without, nothing stays.
local function invalidate(key, xid)
  local value = redis.call('GET', key)
  local kind = value and string.sub(value, 1, 1)
  if xid == '' then
    if kind == 'V' then redis.call('DEL', key)
    elseif kind == 'L' then bury(key, needs_of(value)) end
  elseif kind == 'V' then
    if not seen(xid, snapshot_of(value, ROW_PREFIX)) then bury(key, '0;' .. xid) end
  elseif kind == 'L' then
    local token, needs = lease_of(value)
    local left = redis.call('PTTL', key)
    put(key, 'L' .. token .. '|' .. with(needs, xid) .. '|' .. lease_prefix(value), math.max(left, 1))
  elseif kind == 'D' then
    local tokens, needs = string.match(value, '^D(.-)|(.*)$')
    put(key, 'D' .. tokens .. '|' .. with(needs, xid), math.max(redis.call('PTTL', key), 1))
  else
    bury(key, with(needs_of(value), xid))
  end
end

local steps = {}

-- lease token prefix ms avoid: nil grants the lease; else what is there. `avoid`: a snapshot the reader cannot use.
function steps.lease(key, token, prefix, ms, avoid)
  local value = redis.call('GET', key)
  local kind = value and string.sub(value, 1, 1)
  if kind == 'V' and string.sub(value, 1, #prefix) == prefix
     and (avoid == '' or snapshot_of(value, #prefix) ~= avoid) then return value end
  if kind == 'L' and lease_prefix(value) == prefix then return value end
  if kind == 'D' then return value end
  local done = redis.pcall('SET', key, 'L' .. token .. '|' .. needs_of(value) .. '|' .. prefix, 'PX', ms)
  if type(done) == 'table' and done.err then return 'D' end
  return false
end

-- fill token snapshot entry ms: 1 when it was taken. An empty entry gives the lease up.
function steps.fill(key, token, snapshot, entry, ms)
  local value = redis.call('GET', key)
  if not value or string.sub(value, 1, 1) ~= 'L' then return 0 end
  local holder, needs = lease_of(value)
  if holder ~= token then return 0 end
  if entry ~= '' and fulfilled(needs, snapshot) then return put(key, entry, ms) and 1 or 0 end
  bury(key, needs)
  return 0
end

function steps.renew(key, token, ms)
  local value = redis.call('GET', key)
  if value and string.sub(value, 1, 1) == 'L' and lease_of(value) == token then
    return redis.call('PEXPIRE', key, ms)
  end
  return 0
end

function steps.invalidate(key, xid)
  return invalidate(key, xid)
end

function steps.mark(key, token, ms)
  local value = redis.call('GET', key)
  local tokens = value and string.match(value, '^D(.-)|')
  tokens = tokens and tokens .. ',' .. token or token
  must(key, 'D' .. tokens .. '|' .. needs_of(value), 'PX', ms)
  return 1
end

function steps.unmark(key, token)
  local value = redis.call('GET', key)
  if not value or string.sub(value, 1, 1) ~= 'D' then return invalidate(key, '') end
  local tokens, needs = string.match(value, '^D(.-)|(.*)$')
  local kept = {}
  for one in string.gmatch(tokens, '[^,]+') do
    if one ~= token then kept[#kept + 1] = one end
  end
  if #kept == 0 then bury(key, needs)
  else put(key, 'D' .. table.concat(kept, ',') .. '|' .. needs, math.max(redis.call('PTTL', key), 1)) end
end

-- claim prefix snapshot: whether the caller is the one to load this value anew before it ends.
function steps.claim(key, prefix, snapshot)
  local value = redis.call('GET', key)
  if not value or string.sub(value, 1, #prefix) ~= prefix or snapshot_of(value, #prefix) ~= snapshot then return 0 end
  if string.sub(value, #prefix + 9, #prefix + 12) == '\0\0\0\0' then return 0 end
  redis.call('SETRANGE', key, #prefix + 8, '\0\0\0\0')
  return 1
end

-- refill prefix snapshot entry ms: put a newer value in the place of the one that was claimed, if it is still there.
function steps.refill(key, prefix, snapshot, entry, ms)
  local value = redis.call('GET', key)
  if not value or string.sub(value, 1, #prefix) ~= prefix or snapshot_of(value, #prefix) ~= snapshot then return 0 end
  return put(key, entry, ms) and 1 or 0
end

-- advance expected next guard guard_at rows xid...: what the relay read, and how far, in one step that no crash divides.
-- KEYS: cursor, guard, the rows, then the tags. Answers with the clock in ms; 0 when the cursor is not the expected one.
function steps.advance(key, expected, next, guard, guard_at, rows)
  local there = redis.call('GET', key)
  if (there or '') ~= expected then return 0 end
  local clock = redis.call('TIME')
  local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
  for i = 1, tonumber(rows) do invalidate(KEYS[2 + i], ARGV[6 + i]) end
  for i = 3 + tonumber(rows), #KEYS do redis.call('DEL', KEYS[i]) end
  if next ~= '' then must(key, next) end
  if tonumber(guard_at) > now then must(KEYS[2], guard, 'PX', math.floor(tonumber(guard_at) - now)) end
  return now
end

return steps[ARGV[1]](KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
