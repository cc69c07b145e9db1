-- Counts the visitors who are on the website among some visits of a partition, by site and state, without staff.
--
-- KEYS  the list by start, then prefix of the keys of visits.
-- ARGV  the last_ms before which visits have ended, now_ms, leave_ms, then the visits.
-- Returns a flat list of site, state and count; and the visits that are not counted because only their timeline says
-- their state, or because another version has written them.
local BY_START, prefix = KEYS[1], KEYS[2]
local live_after_ms, now_ms, leave_ms, FIRST_VISIT = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), 4
local LAST_MS, SITE, FLAGS, CLOSED, OPEN = 2, 5, 11, 12, 13  -- as in merge_visits.lua
local CLOSED_PAGE, CLOSED_BYTES, STARTS, ENDED, ANY_STATE, IS_STAFF = '>I4I6', 10, 2 ^ 40, 4, 0, 2

-- Returns whether the visitor is on the website (footfall_identity.presence).
local function is_present(summary)
  if summary[LAST_MS] < live_after_ms then return false end
  local closed = summary[CLOSED]
  if not closed or closed == '' or summary[OPEN] ~= '' then return true end
  for at = 1, #closed, CLOSED_BYTES do
    local _, exited_ms = struct.unpack(CLOSED_PAGE, closed, at)
    if exited_ms + leave_ms > now_ms then return true end
  end
  return false
end

local counts, others = {}, {}
for i = FIRST_VISIT, #ARGV do
  local visit = ARGV[i]
  local score, text = redis.call('ZSCORE', BY_START, visit), redis.call('HGET', prefix .. visit, 'visit')
  local group = score and math.floor(tonumber(score) / STARTS)
  if text and group and group < ENDED then
    local first = text:byte()
    if group == ANY_STATE or first < 0x90 or first > 0x9f then
      others[#others + 1] = visit
    else
      local summary = cmsgpack.unpack(text)
      local is_staff = math.floor((summary[FLAGS] or 0) / IS_STAFF) % 2 == 1
      if not is_staff and is_present(summary) then
        local of_site = counts[summary[SITE]] or {0, 0, 0}
        of_site[group] = of_site[group] + 1
        counts[summary[SITE]] = of_site
      end
    end
  end
end
local answer = {}
for site, of_site in pairs(counts) do
  for state, count in ipairs(of_site) do
    answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = site, state, count
  end
end
return {answer, others}
