-- Merges updates of visits of one partition into their hashes, all or nothing.
--
-- KEYS  the live sets (visits without and with a timeline), changes, tombstones, due times of leaving, the lists by
--       start, by site and by device (live_lists.py), a key that exists while pages are watched, then one visit hash per
--       visit.
-- ARGV  live_after_ms, retention_ms, refresh_ms, changelog_max_entries, now_ms, prefix of the keys of the identity
--       index, most transitions of a visit, '1' to erase with an identity what a visit did before its first transition,
--       short_retention_ms, most pages of a visit, leave_ms. Then for each visit a MessagePack array: first_ms,
--       last_ms, site, global_visit_id, page, title, transitions, received_ms, browser_visit_id, the sum of the flags
--       that an event sets (2: one of staff, 4: one of a robot), the notable events, and the fields of each page
--       (footfall_identity.pages.PageUpdate). The transitions are a flat list: event id, entry, hash of its identity or
--       '', name of a tombstone of this hash. So are the notable events: time, event id, name.
-- Returns a list of {visit id, 1 if its timeline changed, 1 if the index must be refreshed, 1 if transitions had to
-- be left out for the first time}, only for visits with a 1.
--
-- The stream of changes gets an entry (changes.py) for each visit whose timeline has changed, that arrives (ARRIVED: its
-- first event, or the first after its end), whose visitor has come back after having left (RETURNED), or that becomes
-- one of staff while it is live (STAFF). While pages are watched, it gets one also for each visit whose current page or
-- number of open pages has changed (PAGE).
-- note_changes.lua adds the changes that happen without an event.
--
-- A hash has the field `visit`, the summary, and a field for each entry of the timeline (footfall_timeline.to_fields).
-- The summary is the MessagePack array of footfall_identity.visit_record.Summary; the first version wrote text lines.
-- A later version may append elements, which are kept, or start with another byte, which gives the error LATERVERSION.
--
-- A visit without transitions is anonymous. It expires short_retention_ms after its last event. A visit with transitions
-- is known and expires retention_ms after its last merge, but page, title and device only serve the answers about recent
-- visitors: a merge removes them from a visit whose last event is older than short_retention_ms.
--
-- A page is closed if it was exited, not entered since, and sent no event later than leave_ms after its exit: a page may
-- send events while it is unloaded. Of its events of each kind the latest counts, so their order does not matter. The
-- summary has the open and the closed pages as two texts of records, because tables cost more to pack. A list has the
-- number, address and title of open pages that were entered, except where both are those of the visit.
--
-- Of the notable events, which a rule of ATTENTION_FILE counts, the latest are kept.
--
-- Pages are ranked by their latest event; a PageEntered or PageExited counts as if it were leave_ms later. The pages of
-- the lowest ranks beyond most_pages are forgotten. If an event brings such a page back, its time alone decides whether
-- the page is closed (docs/adr/0032), so the result does not depend on the order of events.
--
-- The keys of the index are built here, because they are not known beforehand. Their hash tag is the partition's, so
-- they are in its slot.
local LIVE_ANONYMOUS, LIVE_KNOWN, CHANGES, TOMBSTONES, LEAVING = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local BY_START, BY_SITE, BY_DEVICE, FIRST_VISIT_KEY = KEYS[6], KEYS[7], KEYS[8], 10
local are_pages_watched = redis.call('EXISTS', KEYS[9]) == 1
local live_after_ms, retention_ms, refresh_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_changes, now_ms, index_prefix = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local most, erases_anonymous, short_retention_ms = tonumber(ARGV[7]), ARGV[8] == '1', tonumber(ARGV[9])
local most_pages, leave_ms = tonumber(ARGV[10]), tonumber(ARGV[11])
local recent_after_ms = now_ms - short_retention_ms
local FIRST_MS, LAST_MS, REV, DEVICE, SITE, PAGE, TITLE, BOUND, RECEIVED_MS, FLAGS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 11
local CLOSED, OPEN, TEXTS, NOTABLE = 12, 13, 14, 15
local HAS_ERASED, IS_STAFF, IS_BOT = 1, 2, 4  -- flags; their sum is stored, false for none
local MOST_NOTABLE = 20
local CLOSED_PAGE, CLOSED_BYTES = '>I4I6', 10  -- number, exited_ms
local OPEN_PAGE, OPEN_BYTES = '>I4I6I6I6', 22  -- number, active_ms, exited_ms, entered_ms
local PAGE_FIELDS = 6  -- of an update
local FIRST_VERSION = '^(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$'
local USER_INFO, SIGN_IN, SIGN_OUT = '1', '2', '3'
local ANONYMOUS, RECOGNIZED, AUTHENTICATED = 1, 2, 3
local ARRIVED, RETURNED, PAGE_CHANGED, BECAME_STAFF = 'A', 'R', 'P', 'S'  -- as in changes.py
-- The scores of the lists, as in live_lists.py.
local STARTS, FIRST_START_MS, SITE_SLOTS, LIVE, ENDED, LEFT = 2 ^ 40, 1600000000000, 512, 0, 4, 8
-- A visit with more transitions is listed under any state: its state would take milliseconds at each transition.
local MOST_FOR_STATE, ANY_STATE = 32, 0
local ERASED = '^%d+|[12]|[^|]+|$'
-- Lua passes at most 8,000 arguments: above this number, changes are written without their previous values.
local MAX_CHANGE_ARGUMENTS = 6000
-- Longer than the life of any timeline, which is extended at most every refresh_ms.
local index_ms = retention_ms + 2 * refresh_ms

-- Compares byte by byte: `<` on strings depends on the locale of the server.
local function less(a, b)
  if a == b then return false end  -- as the device of a visit nearly always: no need to look at its 36 characters
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

local function has_flag(summary, flag)
  return math.floor((summary[FLAGS] or 0) / flag) % 2 == 1
end

local function set_flag(summary, flag)
  if not has_flag(summary, flag) then summary[FLAGS] = (summary[FLAGS] or 0) + flag end
end

local function index_visit(hash, visit)
  local key = index_prefix .. hash
  redis.call('ZADD', key, now_ms, visit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms - index_ms)
  redis.call('PEXPIRE', key, index_ms)
end

-- An entry that names an erased identity becomes the erased marker, which is smaller than the entry it replaces.
local function unless_erased(entry, hash, mark)
  local erase_ms = hash ~= '' and redis.call('HGET', TOMBSTONES, mark)
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
  for i = 1, #given, 4 do
    local entry, hash = unless_erased(given[i + 1], given[i + 2], given[i + 3])
    local field, old = find(key, given[i], entry)
    local is_beyond = not old and count >= most and summary[BOUND] ~= '' and less(summary[BOUND], rank(field, entry))
    if not is_beyond then
      if not old or (old ~= entry and less(entry, old)) then
        redis.call('HSET', key, field, entry)
        if entry:find(ERASED) then set_flag(summary, HAS_ERASED) end
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
      if not time then return {} end  -- of a later version: readers refuse the visit
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

-- Returns the state that follows from the timeline of a visit (as in footfall_timeline).
local function state_of(key)
  local state = ANONYMOUS
  for _, one in ipairs(transitions_of(key)) do
    if one.kind == SIGN_OUT then
      if state == AUTHENTICATED then state = RECOGNIZED end
    elseif not one.is_named then
      if one.kind == SIGN_IN or state ~= AUTHENTICATED then state = ANONYMOUS end
    elseif one.kind == SIGN_IN then
      state = AUTHENTICATED
    elseif state ~= AUTHENTICATED then
      state = RECOGNIZED
    end
  end
  return state
end

-- Returns where the record of a page begins in a text of records of a size.
local function find_page(records, size, number)
  local wanted = struct.pack('>I4', number)
  local at = records:find(wanted, 1, true)
  while at and at % size ~= 1 do at = records:find(wanted, at + 1, true) end
  return at
end

local function without_page(records, size, at)
  return records:sub(1, at - 1) .. records:sub(at + size)
end

local function index_of_texts(summary, number)
  for i, texts in ipairs(summary[TEXTS]) do
    if texts[1] == number then return i end
  end
end

-- Stores address and title of a page; none removes them.
local function set_texts(summary, number, url, title)
  local index = index_of_texts(summary, number)
  if index then table.remove(summary[TEXTS], index) end
  if url then table.insert(summary[TEXTS], {number, url, title}) end
end

-- Gives each open page that was entered its texts, before those of the visit change.
local function unfold_texts(summary)
  for at = 1, #summary[OPEN], OPEN_BYTES do
    local number, _, _, entered_ms = struct.unpack(OPEN_PAGE, summary[OPEN], at)
    if entered_ms > 0 and not index_of_texts(summary, number) then
      set_texts(summary, number, summary[PAGE][2], summary[TITLE][2])
    end
  end
end

-- Removes the texts that are those of the visit.
local function fold_texts(summary)
  for i = #summary[TEXTS], 1, -1 do
    local texts = summary[TEXTS][i]
    if texts[2] == summary[PAGE][2] and texts[3] == summary[TITLE][2] then table.remove(summary[TEXTS], i) end
  end
end

local function forget_page(summary, number)
  for field, size in pairs({[OPEN] = OPEN_BYTES, [CLOSED] = CLOSED_BYTES}) do
    local at = find_page(summary[field], size, number)
    if at then summary[field] = without_page(summary[field], size, at) end
  end
  set_texts(summary, number)
end

-- Returns the number of the page of the lowest rank. Of pages of one rank, it is that of the least number.
local function lowest_page(summary)
  local lowest_ms, lowest = math.huge, nil
  local function consider(ms, number)
    if ms < lowest_ms or (ms == lowest_ms and number < lowest) then lowest_ms, lowest = ms, number end
  end
  for at = 1, #summary[OPEN], OPEN_BYTES do
    local number, active_ms, exited_ms, entered_ms = struct.unpack(OPEN_PAGE, summary[OPEN], at)
    consider(math.max(active_ms, exited_ms + leave_ms, entered_ms + leave_ms), number)
  end
  for at = 1, #summary[CLOSED], CLOSED_BYTES do
    local number, exited_ms = struct.unpack(CLOSED_PAGE, summary[CLOSED], at)
    consider(exited_ms + leave_ms, number)
  end
  return lowest
end

-- Merges a page of an update. The texts are those of its PageEntered.
local function merge_page(summary, active_ms, number, exited_ms, entered_ms, url, title)
  local open, closed, _ = summary[OPEN], summary[CLOSED], nil
  local at, old_active_ms, old_exited_ms, old_entered_ms = find_page(open, OPEN_BYTES, number), 0, 0, 0
  if at then
    _, old_active_ms, old_exited_ms, old_entered_ms = struct.unpack(OPEN_PAGE, open, at)
    open = without_page(open, OPEN_BYTES, at)
  else
    at = find_page(closed, CLOSED_BYTES, number)
    if at then
      _, old_exited_ms = struct.unpack(CLOSED_PAGE, closed, at)
      if math.max(active_ms - leave_ms, entered_ms, exited_ms) <= old_exited_ms then return end
      closed = without_page(closed, CLOSED_BYTES, at)
    end
  end
  active_ms, exited_ms = math.max(active_ms, old_active_ms), math.max(exited_ms, old_exited_ms)
  if entered_ms > 0 then
    local texts = summary[TEXTS][index_of_texts(summary, number)] or {number, summary[PAGE][2], summary[TITLE][2]}
    if list_less({old_entered_ms, texts[2], texts[3]}, {entered_ms, url, title}) then
      set_texts(summary, number, url, title)
    end
  end
  entered_ms = math.max(entered_ms, old_entered_ms)
  if entered_ms <= exited_ms then
    if entered_ms > 0 then set_texts(summary, number) end
    entered_ms = 0
  end
  if exited_ms == 0 or entered_ms > 0 or active_ms > exited_ms + leave_ms then
    open = open .. struct.pack(OPEN_PAGE, number, active_ms, exited_ms, entered_ms)
  else
    closed = closed .. struct.pack(CLOSED_PAGE, number, exited_ms)
  end
  summary[OPEN], summary[CLOSED] = open, closed
end

-- Merges the pages of an update, which begin at an index.
local function merge_pages(summary, update, first)
  for i = first, #update, PAGE_FIELDS do
    merge_page(summary, unpack(update, i, i + PAGE_FIELDS - 1))
    if #summary[OPEN] / OPEN_BYTES + #summary[CLOSED] / CLOSED_BYTES > most_pages then
      forget_page(summary, lowest_page(summary))
    end
  end
end

-- Removes from a summary what comes from the erased parts of a visit: page, title, and the device if no identity
-- remains. footfall_history.storage.visit does the same with events. Of two events of one time, both count.
local function remove_erased(key, summary)
  summary[NOTABLE] = nil
  unfold_texts(summary)
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
  for _, texts in ipairs(summary[TEXTS]) do
    local at = find_page(summary[OPEN], OPEN_BYTES, texts[1])
    local _, _, _, entered_ms = struct.unpack(OPEN_PAGE, summary[OPEN], at)
    if is_erased_at(entered_ms) then texts[2], texts[3] = '', '' end
  end
  if not is_named and is_erased_at(summary[FIRST_MS]) then summary[DEVICE] = '' end
end

local slots = {}

-- Returns the part of the list by site that a site is in. Several sites may share it.
local function slot_of(site)
  if not slots[site] then slots[site] = tonumber(redis.sha1hex(site):sub(1, 3), 16) % SITE_SLOTS end
  return slots[site]
end

-- Returns the phase of a visit in the lists. `after_ms` after its last event a visitor without an open page has left. By
-- default it is the phase that the lists may have, because a process whose clock is ahead may have written it.
local function phase_of(summary, after_ms)
  if summary[LAST_MS] < live_after_ms then return ENDED end
  local left_ms = now_ms - (after_ms or leave_ms / 2)
  local has_left = summary[OPEN] == '' and summary[CLOSED] ~= '' and summary[LAST_MS] <= left_ms
  return has_left and LEFT or LIVE
end

-- Returns the state of a visit in the lists.
local function listed_state(key, summary)
  if summary[REV] == 0 then return ANONYMOUS end
  return redis.call('HLEN', key) - 1 > MOST_FOR_STATE and ANY_STATE or state_of(key)
end

local function list_visit(key, visit, summary, phase)
  local group = listed_state(key, summary) + phase
  local start = math.max(0, math.min(summary[FIRST_MS] - FIRST_START_MS, STARTS - 1))
  redis.call('ZADD', BY_START, group * STARTS + start, visit)
  redis.call('ZADD', BY_SITE, (group * SITE_SLOTS + slot_of(summary[SITE])) * STARTS + start, visit)
end

local function list_device(visit, device)
  if device == '' then
    redis.call('ZREM', BY_DEVICE, visit)
  else
    redis.call('ZADD', BY_DEVICE, tonumber(redis.sha1hex(device):sub(1, 13), 16), visit)
  end
end

-- Marks a visit in the live sets. Known visits stay in their set until their page is removed. Readers of the sets skip
-- what is no longer live. Returns whether the visit belongs into the lists.
local function mark_live(visit, last_ms, was_known, is_known)
  if not is_known then
    if last_ms < live_after_ms then return false end
    redis.call('ZADD', LIVE_ANONYMOUS, last_ms, visit)
  elseif last_ms >= recent_after_ms then
    redis.call('ZADD', LIVE_KNOWN, last_ms, visit)
    if not was_known then redis.call('ZREM', LIVE_ANONYMOUS, visit) end
  else
    for _, key in ipairs({LIVE_KNOWN, BY_START, BY_SITE, BY_DEVICE}) do redis.call('ZREM', key, visit) end
    return false
  end
  return true
end

-- Sets the expiry of a visit if it is due: extending it at every merge would cost as much as the rest of the merge.
-- Returns whether it was due.
local function set_expiry(key, last_ms, is_known)
  local least_ms, most_ms
  if is_known then
    least_ms, most_ms = retention_ms, retention_ms + refresh_ms
  else
    most_ms = last_ms - recent_after_ms
    least_ms = math.max(0, most_ms - (live_after_ms - recent_after_ms) / 2)
  end
  local left_ms = redis.call('PTTL', key)
  local is_due = left_ms < least_ms or left_ms > most_ms
  if is_due then redis.call('PEXPIRE', key, most_ms) end
  return is_due
end

-- Removes from a summary what only answers about recent visitors need.
local function remove_page(summary)
  summary[PAGE], summary[TITLE], summary[DEVICE] = {0, ''}, {0, '', ''}, ''
  summary[CLOSED], summary[OPEN], summary[TEXTS], summary[NOTABLE] = '', '', {}, nil
end

-- Keeps the latest of the known and the given notable events.
local function merge_notable(summary, given)
  local all, known = summary[NOTABLE] or {}, {}
  for _, one in ipairs(all) do known[table.concat(one, ' ')] = true end
  for i = 1, #given, 3 do
    local one = {given[i], given[i + 1], given[i + 2]}
    local text = table.concat(one, ' ')
    if not known[text] then all[#all + 1], known[text] = one, true end
  end
  table.sort(all, list_less)
  while #all > MOST_NOTABLE do table.remove(all, 1) end
  summary[NOTABLE] = all
end

-- Writes a hash again. Redis stores a small one as a list, but not one that had a long value before.
local function write_again(key)
  local all, left_ms = redis.call('HGETALL', key), redis.call('PTTL', key)
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(all))
  redis.call('PEXPIRE', key, left_ms)
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

-- Returns when the last of the closed pages was closed; 0 if a page is open or none is known.
local function exit_ms_of(summary)
  local last_ms = 0
  if summary[OPEN] ~= '' then return last_ms end
  for at = 1, #summary[CLOSED], CLOSED_BYTES do
    local _, exited_ms = struct.unpack(CLOSED_PAGE, summary[CLOSED], at)
    last_ms = math.max(last_ms, exited_ms)
  end
  return last_ms
end

-- Returns whether a visitor has left all pages for long enough.
local function has_left(summary)
  local exit_ms = exit_ms_of(summary)
  return exit_ms > 0 and exit_ms + leave_ms <= now_ms
end

-- Notes when a visitor who has just left the last page counts as having left; not before now, to be noticed.
local function note_leaving(visit, summary, closed_before)
  if summary[OPEN] ~= '' or summary[CLOSED] == closed_before or summary[LAST_MS] < live_after_ms then return end
  redis.call('ZADD', LEAVING, math.max(exit_ms_of(summary) + leave_ms, now_ms), visit)
end

-- Returns a text that differs if the current page, its address or title, or the number of open pages does.
local function page_of(summary)
  local last_ms, open_page = -1, ''
  for at = 1, #summary[OPEN], OPEN_BYTES do
    local number, active_ms, _, entered_ms = struct.unpack(OPEN_PAGE, summary[OPEN], at)
    if active_ms > last_ms then
      last_ms = active_ms
      open_page = number .. ' ' .. entered_ms .. ' ' .. tostring(active_ms == summary[PAGE][1])
    end
  end
  return #summary[OPEN] .. ' ' .. open_page .. '\n' .. summary[PAGE][2] .. '\n' .. summary[TITLE][2]
end

-- Returns the kinds of changes of a visit that was live before an update and is after it, apart from the timeline.
local function kinds_of(visit, summary, had_left, page_before)
  local kinds = ''
  -- If the visitor is still in LEAVING, no watcher has been notified.
  if had_left and not has_left(summary) and redis.call('ZREM', LEAVING, visit) == 0 then kinds = RETURNED end
  if page_before and page_before ~= page_of(summary) then kinds = kinds .. PAGE_CHANGED end
  return kinds
end

local function add_change(visit, summary, kinds, changed)
  local entry = {'visit', visit, 'rev', summary[REV]}
  if kinds ~= '' then
    entry[5], entry[6] = 'kinds', kinds
  end
  for _, text in ipairs(changed) do entry[#entry + 1] = text end
  redis.call('XADD', CHANGES, 'MAXLEN', '~', max_changes, '*', unpack(entry))
end

local function pack_summary(summary)
  fold_texts(summary)
  if summary[NOTABLE] then return cmsgpack.pack(summary) end
  if #summary[TEXTS] == 0 then summary[TEXTS] = nil end
  if summary[OPEN] == '' and summary[CLOSED] == '' then
    summary[FLAGS], summary[CLOSED], summary[OPEN] = summary[FLAGS] or nil, nil, nil
  end
  return cmsgpack.pack(summary)
end

-- Returns the summary before this update, decoded, with the update; nil if it is of a later version. Then what the lists
-- have of the visit before the update (start, site, device and phase), and the kinds of changes for watchers.
local function merge_summary(visit, old, update)
  local first_ms, last_ms, site, device, page, title, _, received_ms, browser_visit_id, flags = unpack(update, 1, 10)
  local summary = old and read_summary(old) or
    not old and {first_ms, last_ms, 0, device, site, page, title, '', received_ms, browser_visit_id}
  if not summary then return nil end
  summary[FLAGS], summary[CLOSED] = summary[FLAGS] or false, summary[CLOSED] or ''
  summary[OPEN], summary[TEXTS] = summary[OPEN] or '', summary[TEXTS] or {}
  local listed = old and {summary[FIRST_MS], summary[SITE], summary[DEVICE], phase_of(summary)} or {}
  local was_live = old and summary[LAST_MS] >= live_after_ms
  local had_left = was_live and summary[OPEN] == '' and summary[CLOSED] ~= '' and has_left(summary)
  local page_before = are_pages_watched and was_live and page_of(summary)
  summary[FIRST_MS] = math.min(summary[FIRST_MS], first_ms)
  if list_less({received_ms, site}, {summary[RECEIVED_MS], summary[SITE]}) then
    summary[RECEIVED_MS], summary[SITE] = received_ms, site
  end
  summary[LAST_MS] = math.max(summary[LAST_MS], last_ms)
  if device ~= '' and (summary[DEVICE] == '' or less(device, summary[DEVICE])) then summary[DEVICE] = device end
  local new_page, new_title = summary[PAGE], summary[TITLE]
  if list_less(new_page, page) then new_page = page end
  if list_less(new_title, title) then new_title = title end
  if new_page[2] ~= summary[PAGE][2] or new_title[2] ~= summary[TITLE][2] then unfold_texts(summary) end
  summary[PAGE], summary[TITLE] = new_page, new_title
  local closed_before = summary[CLOSED]
  if #update[11] > 0 then merge_notable(summary, update[11]) end
  merge_pages(summary, update, 12)
  local becomes_staff = flags % 4 == IS_STAFF and not has_flag(summary, IS_STAFF)
  if becomes_staff then set_flag(summary, IS_STAFF) end
  if flags >= IS_BOT then set_flag(summary, IS_BOT) end
  local kinds = ''
  if summary[LAST_MS] >= live_after_ms then
    if not was_live then
      kinds = ARRIVED
    elseif had_left or page_before then
      kinds = kinds_of(visit, summary, had_left, page_before)
    end
    if was_live and becomes_staff then kinds = kinds .. BECAME_STAFF end
  end
  note_leaving(visit, summary, closed_before)
  return summary, listed, kinds
end

-- Returns the answer for a visit if it has one, or an error.
local function merge_visit(key, update)
  local visit, given = key:sub(-36), update[7]
  local old = redis.call('HGET', key, 'visit')
  if not old and #given == 0 and update[2] < recent_after_ms then return nil end  -- it would expire immediately
  local summary, listed, kinds = merge_summary(visit, old, update)
  if not summary then return redis.error_reply('LATERVERSION of a visit') end
  local was_known, was_truncated = summary[REV] > 0, summary[BOUND] ~= ''
  local changed = #given > 0 and merge_transitions(key, visit, summary, given) or {}
  if #changed > 0 then summary[REV] = summary[REV] + 1 end
  if #changed > 0 or kinds ~= '' then add_change(visit, summary, kinds, changed) end
  if has_flag(summary, HAS_ERASED) then remove_erased(key, summary) end
  local is_known, last_ms = summary[REV] > 0, summary[LAST_MS]
  if is_known and last_ms < recent_after_ms then remove_page(summary) end
  local phase = phase_of(summary, leave_ms)
  local new = pack_summary(summary)
  if new ~= old then redis.call('HSET', key, 'visit', new) end
  if old and is_known and last_ms < recent_after_ms and #new < #old then write_again(key) end
  if mark_live(visit, last_ms, was_known, is_known) then
    -- What the lists have of an active visit seldom changes. A visit that has ended may have been removed from them.
    local first_ms, site, device, old_phase = unpack(listed)
    local is_new = not old or old_phase == ENDED
    if is_new or #changed > 0 or phase ~= old_phase or first_ms ~= summary[FIRST_MS] or site ~= summary[SITE] then
      list_visit(key, visit, summary, phase)
    end
    if is_new or device ~= summary[DEVICE] then list_device(visit, summary[DEVICE]) end
  end
  local needs_refresh = set_expiry(key, last_ms, is_known) and was_known
  local is_newly_truncated = not was_truncated and summary[BOUND] ~= ''
  if #changed > 0 or needs_refresh then
    return {visit, #changed > 0 and 1 or 0, needs_refresh and 1 or 0, is_newly_truncated and 1 or 0}
  end
end

local answer = {}
for k = FIRST_VISIT_KEY, #KEYS do
  local merged = merge_visit(KEYS[k], cmsgpack.unpack(ARGV[k + 2]))
  if merged and merged.err then return merged end
  answer[#answer + 1] = merged
end
return answer
