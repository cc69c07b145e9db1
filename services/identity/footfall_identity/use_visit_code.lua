-- Lets a caller use the code of a visit, if no other caller has used it. Returns who has used it; false if the code does
-- not find this visit.
--
-- KEYS  the hash of the code.  ARGV  visit id, caller.
if redis.call('HGET', KEYS[1], 'visit') ~= ARGV[1] then return false end
redis.call('HSETNX', KEYS[1], 'user', ARGV[2])
return redis.call('HGET', KEYS[1], 'user')
