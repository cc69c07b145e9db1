-- Returns the listed visits on a device, as a flat list of visits and scores of the list by start.
--
-- KEYS  the list by start, the list by device.
-- ARGV  the score of the device.
local found = {}
for _, visit in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], ARGV[1])) do
  local score = redis.call('ZSCORE', KEYS[1], visit)
  if score then found[#found + 1], found[#found + 2] = visit, score end
end
return found
