-- Hand out cells whose due has passed, the longest overdue first, and move due and version on. Those
-- that a full server has evicted are forgotten.
--
-- ARGV  time of a test or '', high-water mark, cells at most, microseconds they are held, spaces …
-- gives the time, then space, key, value, version and due of each
local now, most = clock(ARGV[1], ARGV[2]), tonumber(ARGV[3])
local found, version = {}, first_version(now)
for at = 5, #ARGV do
  local space = ARGV[at]
  local keys = call('ZRANGEBYSCORE', p .. 'd:' .. space, '-inf', text(now), 'WITHSCORES',
    'LIMIT', 0, most)
  for place = 1, #keys, 2 do
    found[#found + 1] = {space, keys[place], tonumber(keys[place + 1])}
  end
end
table.sort(found, function(one, other)
  if one[3] ~= other[3] then return one[3] < other[3] end
  if one[1] ~= other[1] then return one[1] < other[1] end
  return one[2] < other[2]
end)
local claimed, due = {text(now)}, text(now + tonumber(ARGV[4]))
for at = 1, math.min(most, #found) do
  local space, key = found[at][1], found[at][2]
  local value = call('HGET', cell_of(space, key), 'v')
  if value then
    version = version + 1
    call('HSET', cell_of(space, key), 'n', text(version), 'd', due)
    call('ZADD', p .. 'd:' .. space, due, key)
    claimed[#claimed + 1] = {space, key, value, text(version), due}
  else
    call('ZREM', p .. 'd:' .. space, key)
    call('ZREM', p .. 'k:' .. space, key)
  end
end
if #claimed > 1 then
  move(now, version)
end
return claimed
