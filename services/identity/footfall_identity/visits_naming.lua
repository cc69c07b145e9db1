-- Returns the listed visits that name one of several identities, as a flat list of visits and scores.
--
-- KEYS  the list by start, then the visits that name each identity.
local found = {}
for i = 2, #KEYS do
  for _, item in ipairs(redis.call('ZINTER', 2, KEYS[i], KEYS[1], 'WEIGHTS', 0, 1, 'WITHSCORES')) do
    found[#found + 1] = item
  end
end
return found
