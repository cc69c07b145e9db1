-- Sets a field of a hash to a time, unless it has a later one. Times have 13 digits, so they compare as strings.
--
-- KEYS  the hash.  ARGV  field, time.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or known < ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
