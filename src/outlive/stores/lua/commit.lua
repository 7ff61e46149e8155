-- Write batches in order, each whole or not at all; what came of each is kept under the writer's
-- name, so that a lost answer can be looked up. A number that is not above the writer's last one is
-- not carried out: it was given up by a look-up, or done already. What only drops runs under the name
-- `release`, also when the server's memory is full.
--
-- ARGV[1]  msgpack: writer, number, time of a test or '', high-water mark, batches: each the cells
--          required {space, key, version}, dropped {space, key}, and put {space, key, due or '',
--          marks}
-- ARGV[2…] the values of what is put, in order
-- gives    msgpack: the time, and for each batch its versions or {-1, place of the failed
--          requirement, version found}; nothing for a number that is not carried out
local asked = cmsgpack.unpack(ARGV[1])
local writer, number = p .. 'w:' .. asked[1], asked[2]
if tonumber(call('HGET', writer, 'n') or '0') >= number then
  return false
end
local now = clock(asked[3], asked[4])
call('HSET', p .. 's', 'clock', text(now)) -- a full server refuses here, before anything is written
local version = first_version(now)
local results, value = {}, 1

for at, batch in ipairs(asked[5]) do
  local result, seen = {}, {}
  for place, need in ipairs(batch[1]) do
    local name = cell_of(need[1], need[2])
    seen[name] = look(name)
    local found = tonumber(seen[name][1] or '0')
    if found ~= need[3] then
      result = {-1, place - 1, found}
      break
    end
  end
  if result[1] == -1 then
    value = value + #batch[3]
  else
    for _, ref in ipairs(batch[2]) do
      drop(ref[1], ref[2])
      seen[cell_of(ref[1], ref[2])] = nil
    end
    for place, cell in ipairs(batch[3]) do
      value, version = value + 1, version + 1
      local name = cell_of(cell[1], cell[2])
      put(cell[1], cell[2], ARGV[value], cell[3], cell[4], version, seen[name])
      seen[name] = nil
      result[place] = version
    end
  end
  results[at] = result
end

move(now, version)
local answer = cmsgpack.pack({now, results})
call('HSET', writer, 'n', number, 'r', answer)
call('EXPIRE', writer, 86400)
return answer
