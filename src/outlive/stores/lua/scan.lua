-- Cells of a space behind a key, by key.
--
-- ARGV  space, key or '', cells at most
-- gives key, value, version, due or '' of each
local after = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local found = {}
for _, key in ipairs(
  call('ZRANGEBYLEX', p .. 'k:' .. ARGV[1], after, '+', 'LIMIT', 0, ARGV[3])
) do
  local cell = call('HMGET', cell_of(ARGV[1], key), 'v', 'n', 'd')
  found[#found + 1] = {key, cell[1], cell[2], cell[3]}
end
return found
