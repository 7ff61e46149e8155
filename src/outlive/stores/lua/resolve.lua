-- Find out what came of a commit whose answer was lost; if nothing did, nothing ever will.
--
-- ARGV  writer, number
-- gives what `commit` gave; nothing when it was not carried out: then its number is used up, by this
--       look-up or by an earlier one whose answer was lost too
local writer = p .. 'w:' .. ARGV[1]
local last = call('HMGET', writer, 'n', 'r')
if last[1] == ARGV[2] then
  return last[2] ~= '' and last[2]
end
call('HSET', writer, 'n', ARGV[2], 'r', '')
call('EXPIRE', writer, 86400)
return false
