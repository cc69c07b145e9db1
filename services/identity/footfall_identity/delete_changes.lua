-- Deletes entries of the stream of changes, also from memory: it rebuilds the stream, because XDEL only marks entries.
--
-- KEYS  the stream.  ARGV  the ids of the entries to delete.
local is_deleted = {}
for _, id in ipairs(ARGV) do is_deleted[id] = true end
if redis.call('EXISTS', KEYS[1]) == 0 then return end
local about = redis.call('XINFO', 'STREAM', KEYS[1])
local info = {}
for i = 1, #about, 2 do info[about[i]] = about[i + 1] end
local entries = redis.call('XRANGE', KEYS[1], '-', '+')
redis.call('DEL', KEYS[1])
local kept = 0
for _, entry in ipairs(entries) do
  if not is_deleted[entry[1]] then
    redis.call('XADD', KEYS[1], entry[1], unpack(entry[2]))
    kept = kept + 1
  end
end
if kept > 0 then
  redis.call('XSETID', KEYS[1], info['last-generated-id'], 'ENTRIESADDED', info['entries-added'])
end
