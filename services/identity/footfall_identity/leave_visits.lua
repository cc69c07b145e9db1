-- Moves live visits whose visitors have left to the groups of such visits in the lists of a partition.
--
-- KEYS  a live set, the lists by start and by site, then prefix of the keys of visits.
-- ARGV  the last_ms after which and up to which to look at visits, and how many of them.
-- Returns how many visits were found, and the last_ms of the last one.
local LIVE, BY_START, BY_SITE, prefix = unpack(KEYS)
local CLOSED, OPEN = 12, 13  -- as in merge_visits.lua
local STARTS, SITE_SLOTS, LEFT = 2 ^ 40, 512, 8

local function has_left(text)
  if not text or text:byte() < 0x90 or text:byte() > 0x9f then return false end
  local summary = cmsgpack.unpack(text)
  return summary[CLOSED] and summary[CLOSED] ~= '' and summary[OPEN] == ''
end

local found = redis.call('ZRANGEBYSCORE', LIVE, '(' .. ARGV[1], ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #found, 2 do
  local visit = found[i]
  local score = redis.call('ZSCORE', BY_START, visit)
  if score and tonumber(score) < 4 * STARTS and has_left(redis.call('HGET', prefix .. visit, 'visit')) then
    redis.call('ZINCRBY', BY_START, LEFT * STARTS, visit)
    redis.call('ZINCRBY', BY_SITE, LEFT * SITE_SLOTS * STARTS, visit)
  end
end
return {#found / 2, tonumber(found[#found] or 0)}
