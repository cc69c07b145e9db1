-- Returns the first visits of several ranges together, as a flat list of visits and scores in no order; a few more than
-- asked for.
--
-- KEYS  a list.
-- ARGV  how many visits, then the highest and the lowest score of each range.
--
-- One script reads all ranges, because a visit may move from one to another between two commands. There may be hundreds
-- of ranges, so each is read only down to the last start that can still count.
local most = tonumber(ARGV[1])
local STARTS = 2 ^ 40  -- as in merge_visits.lua
local answer, latest = {}, {}  -- `latest`: the latest starts so far, at most `most`, latest first

-- Merges the starts in the rows of a range into the latest ones.
local function merge_starts(rows)
  local merged, i, j = {}, 1, 2
  while #merged < most and (latest[i] or rows[j]) do
    local start = rows[j] and rows[j] % STARTS
    if not start or (latest[i] and latest[i] >= start) then
      merged[#merged + 1], i = latest[i], i + 1
    else
      merged[#merged + 1], j = start, j + 2
    end
  end
  latest = merged
end

for i = 2, #ARGV, 2 do
  local lowest = ARGV[i + 1] + (latest[most] or 0)
  local rows = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[i], lowest, 'WITHSCORES', 'LIMIT', 0, most)
  for _, item in ipairs(rows) do answer[#answer + 1] = item end
  if rows[1] then merge_starts(rows) end
end
return answer
