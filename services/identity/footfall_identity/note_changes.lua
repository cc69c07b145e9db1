-- Adds to the stream of changes of a partition what happens without an event: visitors who have left, visits that have
-- ended, and visits whose contact has to be looked up again. It reports each once, whoever runs it.
--
-- KEYS  due times of leaving, the live sets (visits without and with a timeline), changes, the time up to which ended
--       visits are reported, due times of looking up contacts, prefix of the keys of visits.
-- ARGV  now_ms, the last_ms before which visits have ended, leave_ms, changelog_max_entries, most visits of each kind,
--       most milliseconds of ended visits, '1' to report contacts that are due.
-- Returns 1 if more is due.
local LEAVING, ANONYMOUS, KNOWN, CHANGES, REPORTED, CONTACTS, prefix = unpack(KEYS)
local now_ms, ended_ms, leave_ms, max_changes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local most, most_ms, reports_contacts = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local LAST_MS, CLOSED, OPEN = 2, 12, 13  -- as in merge_visits.lua
local CLOSED_PAGE, CLOSED_BYTES = '>I4I6', 10
local LEFT, ENDED, CONTACT = 'L', 'E', 'C'  -- as in changes.py
local has_more = 0

local function add_change(visit, kinds)
  redis.call('XADD', CHANGES, 'MAXLEN', '~', max_changes, '*', 'visit', visit, 'rev', '0', 'kinds', kinds)
end

-- Returns the visits of a sorted set that are due, and removes them from it.
local function take_due(key)
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now_ms, 'LIMIT', 0, most)
  if #due > 0 then redis.call('ZREM', key, unpack(due)) end
  if #due == most then has_more = 1 end
  return due
end

-- Returns whether the visit is live and its visitor has left all pages for long enough.
local function has_left(visit)
  local text = redis.call('HGET', prefix .. visit, 'visit')
  if not text or text:byte() < 0x90 or text:byte() > 0x9f then return false end
  local summary = cmsgpack.unpack(text)
  if summary[LAST_MS] < ended_ms or not summary[CLOSED] or summary[CLOSED] == '' or summary[OPEN] ~= '' then
    return false
  end
  for at = 1, #summary[CLOSED], CLOSED_BYTES do
    local _, exited_ms = struct.unpack(CLOSED_PAGE, summary[CLOSED], at)
    if exited_ms + leave_ms > now_ms then return false end
  end
  return true
end

for _, visit in ipairs(take_due(LEAVING)) do
  if has_left(visit) then add_change(visit, LEFT) end
end

if reports_contacts then
  for _, visit in ipairs(take_due(CONTACTS)) do add_change(visit, CONTACT) end
end

-- Reports the visits whose last event happened at or after a time, as far as they have ended. Returns the next time.
local function report_ended(from_ms)
  local first_ms = ended_ms
  for _, key in ipairs({ANONYMOUS, KNOWN}) do
    local first = redis.call('ZRANGEBYSCORE', key, from_ms, '(' .. ended_ms, 'WITHSCORES', 'LIMIT', 0, 1)
    if first[2] then first_ms = math.min(first_ms, tonumber(first[2])) end
  end
  local until_ms = math.min(ended_ms, first_ms + most_ms)
  for _, key in ipairs({ANONYMOUS, KNOWN}) do
    local ended = redis.call('ZRANGEBYSCORE', key, first_ms, '(' .. until_ms)
    for _, visit in ipairs(ended) do add_change(visit, ENDED) end
  end
  return until_ms
end

local from_ms = tonumber(redis.call('GET', REPORTED) or ended_ms)
if from_ms <= ended_ms then
  local until_ms = report_ended(from_ms)
  redis.call('SET', REPORTED, string.format('%d', until_ms))
  if until_ms < ended_ms then has_more = 1 end
end
return has_more
