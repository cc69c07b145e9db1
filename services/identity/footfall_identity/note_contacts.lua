-- Notes that the contacts of identities change: in the stream of changes of a partition, or for later.
--
-- KEYS  changes, visits with a timeline that are live or ended lately, due times of looking up contacts, then the visits
--       that name each identity.
-- ARGV  when to look up the contacts ('': they have changed now), changelog_max_entries, most visits of an identity,
--       then for each identity a MessagePack array: its hash, the contact before the change, and, if the hash is '', its
--       visits.
local CHANGES, KNOWN, CONTACTS = KEYS[1], KEYS[2], KEYS[3]
local due_ms, max_changes, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local CONTACT = 'C'  -- as in changes.py

local function note(visit, hash, contact)
  if due_ms ~= '' then
    redis.call('ZADD', CONTACTS, due_ms, visit)
    return
  end
  redis.call('ZREM', CONTACTS, visit)
  redis.call('XADD', CHANGES, 'MAXLEN', '~', max_changes, '*',
    'visit', visit, 'rev', '0', 'kinds', CONTACT, 'identity', hash, 'contact', contact)
end

for i = 4, #KEYS do
  local hash, contact, visits = unpack(cmsgpack.unpack(ARGV[i]))
  if hash ~= '' then visits = redis.call('ZREVRANGE', KEYS[i], 0, most - 1) end
  for _, visit in ipairs(visits) do
    if redis.call('ZSCORE', KNOWN, visit) then note(visit, hash, contact) end
  end
end
