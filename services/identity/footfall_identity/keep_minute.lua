-- Keeps the numbers of visitors of a minute, unless another process has done so.
--
-- KEYS  the minute.
-- ARGV  for how many milliseconds, then fields and values.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
