-- Cells of some spaces by a mark with a value from low to high. Those that a full server has evicted
-- are forgotten here, also where they were made again without the mark.
--
-- ARGV  mark, low, high, cells at most, '1' for the newest first, spaces …
-- gives value of the mark, space, key, value, version, due or '' of each
local name, most, newest = p .. 'm:' .. ARGV[1], tonumber(ARGV[4]), ARGV[5] == '1'
local low, high = '[' .. ARGV[2], '(' .. ARGV[3] .. '\1'
local wanted, found, stale, from, page = {}, {}, {}, 0, 1000

local function has(packed, value)
  for _, mark in ipairs(packed and packed ~= '' and cmsgpack.unpack(packed) or {}) do
    if mark[1] == ARGV[1] and mark[2] == value then
      return true
    end
  end
  return false
end

for at = 6, #ARGV do
  wanted[ARGV[at]] = true
end
while #found < most do
  local members
  if newest then
    members = call('ZREVRANGEBYLEX', name, high, low, 'LIMIT', from, page)
  else
    members = call('ZRANGEBYLEX', name, low, high, 'LIMIT', from, page)
  end
  for _, one in ipairs(members) do
    local first = string.find(one, '\0', 1, true)
    local second = string.find(one, '\0', first + 1, true)
    local space = string.sub(one, first + 1, second - 1)
    if wanted[space] and #found < most then
      local key = string.sub(one, second + 1)
      local cell = call('HMGET', cell_of(space, key), 'v', 'n', 'd', 'm')
      local value = string.sub(one, 1, first - 1)
      if has(cell[4], value) then
        found[#found + 1] = {value, space, key, cell[1], cell[2], cell[3]}
      else
        stale[#stale + 1] = one
      end
    end
  end
  if #members < page then
    break
  end
  from = from + page
end
for _, one in ipairs(stale) do
  call('ZREM', name, one)
end
return found
