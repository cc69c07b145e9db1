-- Removes ended visits without a timeline from the lists of a partition, and moves those with one to the groups of ended
-- visits.
--
-- KEYS  the live sets (visits without and with a timeline), the lists by start, by site and by device.
-- ARGV  the last_ms before which visits without a timeline have ended; for visits with one, the last_ms after which to
--       look at them and before which they have ended; most visits to look at in each set.
-- Returns how many visits were found in each set, and the last_ms of the last one with a timeline. There may be more if
-- it is the most.
local ANONYMOUS, KNOWN, BY_START, BY_SITE, BY_DEVICE = unpack(KEYS)
local most = ARGV[4]
local STARTS, SITE_SLOTS, ENDED = 2 ^ 40, 512, 4  -- as in merge_visits.lua

local anonymous = redis.call('ZRANGEBYSCORE', ANONYMOUS, '-inf', '(' .. ARGV[1], 'LIMIT', 0, most)
for _, visit in ipairs(anonymous) do
  for _, key in ipairs({ANONYMOUS, BY_START, BY_SITE, BY_DEVICE}) do redis.call('ZREM', key, visit) end
end

local known = redis.call('ZRANGEBYSCORE', KNOWN, '(' .. ARGV[2], '(' .. ARGV[3], 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #known, 2 do
  local visit = known[i]
  local score = redis.call('ZSCORE', BY_START, visit)
  local group = score and math.floor(score / STARTS)
  if group and math.floor(group / 4) * 4 ~= ENDED then
    local further = group % 4 + ENDED - group
    redis.call('ZINCRBY', BY_START, further * STARTS, visit)
    redis.call('ZINCRBY', BY_SITE, further * SITE_SLOTS * STARTS, visit)
  end
end
return {#anonymous, #known / 2, tonumber(known[#known] or 0)}
