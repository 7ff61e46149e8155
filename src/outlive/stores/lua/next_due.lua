-- The earliest due in some spaces, passed or not; nothing when there is none.
--
-- ARGV  spaces …
local least
for _, space in ipairs(ARGV) do
  local first = call('ZRANGE', p .. 'd:' .. space, 0, 0, 'WITHSCORES')
  if first[2] and (not least or tonumber(first[2]) < least) then
    least = tonumber(first[2])
  end
end
return least and text(least)
