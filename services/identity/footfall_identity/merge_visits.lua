-- Merges updates of visits of one partition into their hashes, all or nothing.
--
-- KEYS  the live sets (visits without and with a timeline), changes, tombstones, then one visit hash per visit.
-- ARGV  live_after_ms, retention_ms, refresh_ms, changelog_max_entries, now_ms, prefix of the keys of the identity
--       index, most transitions of a visit, '1' to erase with an identity what a visit did before its first transition.
--       Then for each visit a MessagePack array: first_ms, last_ms, site, global_visit_id, page, title, transitions,
--       received_ms, browser_visit_id. The transitions are a flat list: event id, entry, hash of its identity or ''.
-- Returns a list of {visit id, 1 if its timeline changed, 1 if the index must be refreshed, 1 if transitions had to
-- be left out for the first time}, only for visits with a 1.
--
-- A hash has the field `visit`, the summary, and a field for each entry of the timeline (footfall_timeline.to_fields).
-- The summary is the MessagePack array of footfall_identity.visit_record.Summary; the first version wrote text lines.
-- A later version may append elements, which are kept, or start with another byte, which gives the error LATERVERSION.
-- The keys of the index are built here, because they are not known beforehand. Their hash tag is the partition's, so
-- they are in its slot.
local LIVE_ANONYMOUS, LIVE_KNOWN, CHANGES, TOMBSTONES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local live_after_ms, retention_ms, refresh_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_changes, now_ms, index_prefix = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local most, erases_anonymous = tonumber(ARGV[7]), ARGV[8] == '1'
local FIRST_MS, LAST_MS, REV, DEVICE, SITE, PAGE, TITLE, BOUND, RECEIVED_MS, HAS_ERASED = 1, 2, 3, 4, 5, 6, 7, 8, 9, 11
local FIRST_VERSION = '^(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$'
local USER_INFO, SIGN_IN, SIGN_OUT = '1', '2', '3'
local ERASED = '^%d+|[12]|[^|]+|$'
-- Lua passes at most 8,000 arguments: above this number, changes are written without their previous values.
local MAX_CHANGE_ARGUMENTS = 6000
-- Longer than the life of any timeline, which is extended at most every refresh_ms.
local index_ms = retention_ms + 2 * refresh_ms

-- Compares byte by byte: `<` on strings depends on the locale of the server.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Compares lists of a number followed by strings.
local function list_less(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  for i = 2, #a do
    if a[i] ~= b[i] then return less(a[i], b[i]) end
  end
  return false
end

local function index_visit(hash, visit)
  local key = index_prefix .. hash
  redis.call('ZADD', key, now_ms, visit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - index_ms)
  redis.call('PEXPIRE', key, index_ms)
end

-- An entry that names an erased identity becomes the erased marker, which is smaller than the entry it replaces.
local function unless_erased(entry, hash)
  local erase_ms = hash ~= '' and redis.call('HGET', TOMBSTONES, hash)
  if erase_ms and entry:sub(1, 13) <= erase_ms then
    return entry:match('^%d+|%d|[^|]+|'), ''
  end
  return entry, hash
end

-- Returns the field of an entry and its current value. Entries of one event differ in assurance. The first one stored
-- uses the event id as field; it may be removed while others remain.
local function find(key, event, entry)
  local assurance = entry:match('^%d+|%d|(%d)')
  local field = event .. '+' .. assurance
  local first, further = unpack(redis.call('HMGET', key, event, field))
  if further then return field, further end
  if not first or first:match('^%d+|%d|(%d)') == assurance then return event, first end
  return field, false
end

-- Returns the sort key of an entry: time, event, kind and assurance.
local function rank(field, entry)
  return entry:sub(1, 13) .. field:sub(1, 36) .. entry:sub(14, 17)
end

-- Removes the entries beyond the `most` smallest. Returns the removed ones by field, and the greatest remaining rank.
local function truncate(key)
  local all, order = redis.call('HGETALL', key), {}
  for i = 1, #all, 2 do
    if all[i] ~= 'visit' then
      local of_entry = rank(all[i], all[i + 1])
      order[#order + 1] = {tonumber(of_entry:sub(1, 13)), of_entry, all[i], all[i + 1]}
    end
  end
  table.sort(order, list_less)
  local removed = {}
  for i = most + 1, #order do
    removed[order[i][3]] = order[i][4]
    redis.call('HDEL', key, order[i][3])
  end
  return removed, order[most][2]
end

-- Returns the changes as fields for the stream: new values by field, replaced and removed values by '-' .. field.
local function merge_transitions(key, visit, summary, given)
  local before, after, fields = {}, {}, {}
  local function note(field, old, new)
    if before[field] == nil then
      before[field] = old
      fields[#fields + 1] = field
    end
    after[field] = new
  end
  local count = redis.call('HLEN', key) - redis.call('HEXISTS', key, 'visit')
  for i = 1, #given, 3 do
    local entry, hash = unless_erased(given[i + 1], given[i + 2])
    local field, old = find(key, given[i], entry)
    local is_beyond = not old and count >= most and summary[BOUND] ~= '' and less(summary[BOUND], rank(field, entry))
    if not is_beyond then
      if not old or (old ~= entry and less(entry, old)) then
        redis.call('HSET', key, field, entry)
        if entry:find(ERASED) then summary[HAS_ERASED] = 1 end
        note(field, old, entry)
        if not old then count = count + 1 end
      end
      if hash ~= '' and old ~= entry then index_visit(hash, visit) end  -- an equal entry is indexed already
    end
  end
  if count > most then
    local removed
    removed, summary[BOUND] = truncate(key)
    for field, old in pairs(removed) do note(field, old, false) end
  end
  local changed = {}
  for _, field in ipairs(fields) do
    local old, new = before[field], after[field]
    if new then
      changed[#changed + 1] = field
      changed[#changed + 1] = new
    end
    local is_erased = new and new:find(ERASED)  -- its previous value must not be stored
    if old and not is_erased and #changed < MAX_CHANGE_ARGUMENTS then
      changed[#changed + 1] = '-' .. field
      changed[#changed + 1] = old
    end
  end
  return changed
end

-- Returns the transitions of a timeline in order, one per event, with the kind that counts (as in footfall_timeline).
local function transitions_of(key)
  local all, of_event, order = redis.call('HGETALL', key), {}, {}
  for i = 1, #all, 2 do
    if all[i] ~= 'visit' then
      local time, kind, assurance, token, identity = all[i + 1]:match('^(%d+)|(%d)|(%d)([^|]*)|(.*)$')
      local event = all[i]:sub(1, 36)
      local one = of_event[event]
      if not one then
        one = {tonumber(time), event}
        of_event[event], order[#order + 1] = one, one
      end
      one[1] = math.min(one[1], tonumber(time))
      if not one.assurance or one.assurance < assurance then
        one.kind, one.assurance, one.token, one.is_named = kind, assurance, token, identity ~= ''
      end
    end
  end
  table.sort(order, list_less)
  local sign_outs, before_use = 0, {}
  for _, one in ipairs(order) do
    if one.kind == SIGN_OUT then sign_outs = sign_outs + 1 end
    if one.token ~= '' then
      before_use[one.token] = before_use[one.token] or sign_outs
      if before_use[one.token] < sign_outs then one.kind = USER_INFO end
    end
  end
  return order
end

-- Removes from a summary what comes from the erased parts of a visit: page, title, and the device if no identity
-- remains. footfall_history.storage.visit does the same with events. Of two events of one time, both count.
local function remove_erased(key, summary)
  local moments, is_named, first, is_signed_in, is_erased = {}, false, nil, false, false
  for _, one in ipairs(transitions_of(key)) do
    local is_marker = one.kind ~= SIGN_OUT and not one.is_named
    if one.kind == SIGN_OUT then
      is_signed_in = false
    elseif is_marker then
      if one.kind == SIGN_IN or not is_signed_in then is_erased, is_signed_in = true, false end
    else
      is_erased, is_named, is_signed_in = false, true, is_signed_in or one.kind == SIGN_IN
    end
    if not first and one.kind ~= SIGN_OUT then first = one end
    moments[#moments + 1] = {one[1], is_erased or is_marker, is_erased}
  end
  local function is_erased_at(ms)
    local found = erases_anonymous and first and not first.is_named
    for _, moment in ipairs(moments) do
      if moment[1] > ms then break end
      found = moment[1] == ms and moment[2] or moment[3]
    end
    return found
  end
  if is_erased_at(summary[PAGE][1]) then summary[PAGE] = {summary[PAGE][1], ''} end
  if is_erased_at(summary[TITLE][1]) then summary[TITLE] = {summary[TITLE][1], '', ''} end
  if not is_named and is_erased_at(summary[FIRST_MS]) then summary[DEVICE] = '' end
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

local function read_summary(text)
  if text:byte() >= 0x90 and text:byte() <= 0x9f then
    local summary = cmsgpack.unpack(text)
    if not summary[RECEIVED_MS] then summary[RECEIVED_MS], summary[RECEIVED_MS + 1] = 0, '' end
    return summary
  end
  local first_ms, last_ms, page_ms, rev, device, site, url = text:match(FIRST_VERSION)
  if not first_ms then return nil end
  local page, title = {tonumber(page_ms), url}, {0, '', ''}
  return {tonumber(first_ms), tonumber(last_ms), tonumber(rev), device, site, page, title, '', 0, ''}
end

local answer = {}
for k = 5, #KEYS do
  local key = KEYS[k]
  local visit = key:sub(-36)
  local first_ms, last_ms, site, device, page, title, given, received_ms, browser_visit_id =
    unpack(cmsgpack.unpack(ARGV[k + 4]))
  local old = redis.call('HGET', key, 'visit')
  local summary
  if old then
    summary = read_summary(old)
    if not summary then return redis.error_reply('LATERVERSION of a visit') end
    summary[FIRST_MS] = math.min(summary[FIRST_MS], first_ms)
    if list_less({received_ms, site}, {summary[RECEIVED_MS], summary[SITE]}) then
      summary[RECEIVED_MS], summary[SITE] = received_ms, site
    end
    summary[LAST_MS] = math.max(summary[LAST_MS], last_ms)
    if device ~= '' and (summary[DEVICE] == '' or less(device, summary[DEVICE])) then summary[DEVICE] = device end
    if list_less(summary[PAGE], page) then summary[PAGE] = page end
    if list_less(summary[TITLE], title) then summary[TITLE] = title end
  else
    summary = {first_ms, last_ms, 0, device, site, page, title, '', received_ms, browser_visit_id}
  end
  local was_known, was_truncated = summary[REV] > 0, summary[BOUND] ~= ''
  local changed = #given > 0 and merge_transitions(key, visit, summary, given) or {}
  if #changed > 0 then
    summary[REV] = summary[REV] + 1
    redis.call('XADD', CHANGES, 'MAXLEN', '~', max_changes, '*', 'visit', visit, 'rev', summary[REV], unpack(changed))
  end
  if summary[HAS_ERASED] then remove_erased(key, summary) end
  local new = cmsgpack.pack(summary)
  if new ~= old then redis.call('HSET', key, 'visit', new) end
  mark_live(visit, summary[LAST_MS], was_known, summary[REV] > 0)
  local needs_refresh = redis.call('PTTL', key) < retention_ms
  if needs_refresh then redis.call('PEXPIRE', key, retention_ms + refresh_ms) end
  needs_refresh = needs_refresh and was_known
  local is_newly_truncated = not was_truncated and summary[BOUND] ~= ''
  if #changed > 0 or needs_refresh then
    answer[#answer + 1] = {visit, #changed > 0 and 1 or 0, needs_refresh and 1 or 0, is_newly_truncated and 1 or 0}
  end
end
redis.call('ZREMRANGEBYSCORE', LIVE_ANONYMOUS, '-inf', '(' .. ARGV[1])
redis.call('ZREMRANGEBYSCORE', LIVE_KNOWN, '-inf', '(' .. ARGV[1])
return answer
