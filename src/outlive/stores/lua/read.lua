-- Cells of one moment.
--
-- ARGV  space and key of each
-- gives for each: value, version, due or '' (nothing for an absent one)
local found = {}
for at = 1, #ARGV, 2 do
  found[#found + 1] = call('HMGET', cell_of(ARGV[at], ARGV[at + 1]), 'v', 'n', 'd')
end
return found
