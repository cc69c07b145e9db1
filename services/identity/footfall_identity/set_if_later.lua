-- Sets a field of a hash to a time unless its value is later. Times have 13 digits, so strings compare like numbers.
--
-- KEYS  the hash.  ARGV  field, time.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or known < ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
