-- Merges what a batch brings to visits of one partition into their hashes, all or nothing.
--
-- KEYS  the live sets (visits without and with a timeline), changes, tombstones, then one visit hash a visit.
-- ARGV  live_after_ms, keep_ms, refresh_ms, changes_kept, now_ms, prefix of person keys, '1' to answer every visit with
--       transitions instead of the changed ones only; then for each visit: first_ms, site, last_ms, url_ms, url,
--       global_visit_id, number of transitions, and of each: event id, entry, hash of its identity ('' if none).
-- Answers a list of {visit id, 1 if asked for, 1 if its person keys must be refreshed, its hash}.
--
-- A summary begins with a digit; one that does not is a later version's, as with entries (footfall_timeline.encode).
-- Times have 13 digits. Keys of persons are made here, because one cannot know them all beforehand; they have the
-- partition's hash tag, so they are in its slot.
local LIVE_ANONYMOUS, LIVE_KNOWN, CHANGES, TOMBSTONES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local live_after_ms, keep_ms, refresh_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local changes_kept, now_ms, person_prefix, answer_all = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1'
local SUMMARY = '^(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$'
-- Longer than any timeline lives that is refreshed once every refresh_ms.
local person_ms = keep_ms + 2 * refresh_ms
local next_argument = 8

local function take()
  next_argument = next_argument + 1
  return ARGV[next_argument - 1]
end

-- Byte by byte: `<` on strings goes by the server's locale.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function pair_less(a_ms, a, b_ms, b)
  if a_ms ~= b_ms then return a_ms < b_ms end  -- digits: in order in every locale
  return less(a, b)
end

local function remember_person(hash, visit)
  local key = person_prefix .. hash
  redis.call('ZADD', key, now_ms, visit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - person_ms)
  redis.call('PEXPIRE', key, person_ms)
end

-- An entry naming a person erased since becomes the erased marker, which is smaller than what it replaces.
local function unless_erased(entry, hash)
  local erase_ms = hash ~= '' and redis.call('HGET', TOMBSTONES, hash)
  if erase_ms and entry:sub(1, 13) <= erase_ms then
    return entry:match('^%d+|%d|%d|'), ''
  end
  return entry, hash
end

-- Returns the changes as fields of a stream entry: new values by event id, replaced ones by '-' and event id.
local function merge_transitions(key, visit, count)
  local changed = {}
  for _ = 1, count do
    local event, entry, hash = take(), take(), take()
    entry, hash = unless_erased(entry, hash)
    local old = redis.call('HGET', key, event)
    if not old or (old ~= entry and less(entry, old)) then
      redis.call('HSET', key, event, entry)
      changed[#changed + 1] = event
      changed[#changed + 1] = entry
      if old and entry:sub(-1) ~= '|' then  -- what an erased marker replaces is to be forgotten
        changed[#changed + 1] = '-' .. event
        changed[#changed + 1] = old
      end
    end
    if hash ~= '' then remember_person(hash, visit) end
  end
  return changed
end

local function mark_live(visit, last_ms, was_known, is_known)
  if last_ms < live_after_ms then return end
  if is_known then
    redis.call('ZADD', LIVE_KNOWN, last_ms, visit)
    if not was_known then redis.call('ZREM', LIVE_ANONYMOUS, visit) end
  else
    redis.call('ZADD', LIVE_ANONYMOUS, last_ms, visit)
  end
end

local answer = {}
for k = 5, #KEYS do
  local key = KEYS[k]
  local visit = key:sub(-36)
  local first_ms, site, last_ms, url_ms, url, device = take(), take(), take(), take(), take(), take()
  local count = tonumber(take())
  local rev = 0
  local summary = redis.call('HGET', key, 'visit')
  if summary then
    local a, b, c, d, e, f, g = summary:match(SUMMARY)
    if not a then return redis.error_reply('LATERVERSION of a visit') end
    if pair_less(a, f, first_ms, site) then first_ms, site = a, f end
    if last_ms < b then last_ms = b end
    if not pair_less(c, g, url_ms, url) then url_ms, url = c, g end
    if device == '' or (e ~= '' and less(e, device)) then device = e end
    rev = tonumber(d)
  end
  local was_known = rev > 0
  local changed = merge_transitions(key, visit, count)
  if #changed > 0 then
    rev = rev + 1
    redis.call('XADD', CHANGES, 'MAXLEN', '~', changes_kept, '*', 'visit', visit, unpack(changed))
  end
  local new = table.concat({first_ms, last_ms, url_ms, rev, device, site, url}, '\n')
  if new ~= summary then redis.call('HSET', key, 'visit', new) end
  mark_live(visit, last_ms, was_known, rev > 0)
  local must_refresh = redis.call('PTTL', key) < keep_ms
  if must_refresh then redis.call('PEXPIRE', key, keep_ms + refresh_ms) end
  must_refresh = must_refresh and was_known
  local is_asked_for = #changed > 0 or (answer_all and count > 0)
  if is_asked_for or must_refresh then
    answer[#answer + 1] = {visit, is_asked_for and 1 or 0, must_refresh and 1 or 0, redis.call('HGETALL', key)}
  end
end
redis.call('ZREMRANGEBYSCORE', LIVE_ANONYMOUS, '-inf', '(' .. live_after_ms)
redis.call('ZREMRANGEBYSCORE', LIVE_KNOWN, '-inf', '(' .. live_after_ms)
return answer
