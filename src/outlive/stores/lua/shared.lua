-- What every script begins with: the names of the keys, the clock, and how a cell is written.
--
--   <p>s             hash: clock (its high-water mark), version (the last one), changes (a count)
--   <p>c:space\0key  hash: v value, n version, d due or empty, m marks (msgpack) or empty
--   <p>k:space       sorted set, all of score 0: the keys of a space, in their order
--   <p>d:space       sorted set by due: the keys that have one
--   <p>m:mark        sorted set, all of score 0: value\0space\0key
--   <p>w:writer      hash: n the number of its last commit, r what came of it
--
-- KEYS[1] is <p>, which has one hash tag: all of it is in one slot. Numbers are doubles, exact up
-- to 2^53: enough for microseconds until the year 2255.
local p = KEYS[1]
local call = redis.call

local function text(number)
  return string.format('%.0f', number)
end

local function cell_of(space, key)
  return p .. 'c:' .. space .. '\0' .. key
end

-- The store's clock: the server's, never before an earlier one. `given` is a test's, or empty.
local function clock(given, high)
  local now = tonumber(given)
  if not now then
    local t = call('TIME')
    now = t[1] * 1000000 + t[2]
  end
  local kept = tonumber(call('HGET', p .. 's', 'clock') or '0')
  return math.max(now, kept, tonumber(high))
end

-- The next version is above the last one, and never before the time in microseconds: so it is also
-- above those of a server that has lost everything.
local function first_version(now)
  return math.max(tonumber(call('HGET', p .. 's', 'version') or '0'), now)
end

local function move(now, version)
  call('HSET', p .. 's', 'clock', text(now), 'version', text(version))
  call('HINCRBY', p .. 's', 'changes', 1)
end

local function member(mark, space, key)
  return mark .. '\0' .. space .. '\0' .. key
end

local function unmark(space, key, packed)
  if packed and packed ~= '' then
    for _, mark in ipairs(cmsgpack.unpack(packed)) do
      call('ZREM', p .. 'm:' .. mark[1], member(mark[2], space, key))
    end
  end
end

local function look(at)
  return call('HMGET', at, 'n', 'm', 'd')
end

local function drop(space, key)
  local at = cell_of(space, key)
  local old = call('HMGET', at, 'n', 'm')
  if old[1] then
    unmark(space, key, old[2])
    call('DEL', at)
    call('ZREM', p .. 'k:' .. space, key)
    call('ZREM', p .. 'd:' .. space, key)
  end
end

-- `old`: what is there, if that was looked at: its version, marks and due.
local function put(space, key, value, due, marks, version, old)
  local at = cell_of(space, key)
  old = old or look(at)
  if not old[1] then
    call('ZADD', p .. 'k:' .. space, 0, key)
  end
  local packed = ''
  if #marks > 0 then
    packed = cmsgpack.pack(marks)
  end
  if packed ~= old[2] then
    unmark(space, key, old[2])
    for _, mark in ipairs(marks) do
      call('ZADD', p .. 'm:' .. mark[1], 0, member(mark[2], space, key))
    end
  end
  call('HSET', at, 'v', value, 'n', text(version), 'd', due, 'm', packed)
  if due == old[3] then
    return
  elseif due ~= '' then
    call('ZADD', p .. 'd:' .. space, due, key)
  elseif old[3] and old[3] ~= '' then
    call('ZREM', p .. 'd:' .. space, key)
  end
end
