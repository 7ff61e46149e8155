-- Cells of a space behind a key, by key. Those that a full server has evicted are passed over.
--
-- ARGV  space, key or '', cells at most
-- gives key, value, version, due or '' of each
local after, most = ARGV[2] == '' and '-' or '(' .. ARGV[2], tonumber(ARGV[3])
local found, name = {}, p .. 'k:' .. ARGV[1]
while #found < most do
  local wanted = most - #found
  local keys = call('ZRANGEBYLEX', name, after, '+', 'LIMIT', 0, wanted)
  for _, key in ipairs(keys) do
    local cell = call('HMGET', cell_of(ARGV[1], key), 'v', 'n', 'd')
    if cell[1] then
      found[#found + 1] = {key, cell[1], cell[2], cell[3]}
    end
  end
  if #keys < wanted then
    break
  end
  after = '(' .. keys[#keys]
end
return found
