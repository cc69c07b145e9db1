-- Returns the code of a visit and how long it still finds the visit. That is the present code if it is not used and has
-- half of its life left, else a new one. Returns false when too many codes are in use or all candidates are taken.
--
-- KEYS  the sorted set of codes by expiry, the code of the visit, the hash of each candidate.
-- ARGV  now, life of a code (both in milliseconds), most codes, prefix of the keys of codes, visit id, candidates.
local codes, of_visit = KEYS[1], KEYS[2]
local now, life, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local known = redis.call('GET', of_visit)
if known then
  local left = redis.call('PTTL', of_visit)
  if left * 2 >= life and redis.call('HEXISTS', prefix .. known, 'user') == 0 then return {known, left} end
  redis.call('DEL', of_visit, prefix .. known)
  redis.call('ZREM', codes, known)
end
redis.call('ZREMRANGEBYSCORE', codes, '-inf', now)
if redis.call('ZCARD', codes) >= tonumber(ARGV[3]) then return false end
for at = 6, #ARGV do
  local hash = KEYS[at - 3]
  if redis.call('EXISTS', hash) == 0 then
    redis.call('HSET', hash, 'visit', ARGV[5])
    redis.call('PEXPIRE', hash, life)
    redis.call('SET', of_visit, ARGV[at], 'PX', life)
    redis.call('ZADD', codes, now + life, ARGV[at])
    redis.call('PEXPIRE', codes, life)
    return {ARGV[at], life}
  end
end
return false
