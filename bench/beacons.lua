-- Turns arguments into beacons for wrk, each with events that no server has seen before.
--
-- Arguments: events a beacon (0: one to eight, as a tracker sends them), share of visits that sign in, mean pause between
-- two requests of a connection in ms (0: none), number of known visits of which each beacon belongs to any (0: new visits),
-- 1 if the first event of each beacon is a SignIn.
--
-- A visit is what a browser sends of twelve pages: VisitStarted, then PageEntered, a click and PageExited of each. Each
-- thread has ACTIVE visits under way and takes the next events of any of them.
local ACTIVE, PAGES, STEPS = 1000, 12, 3
local SIZES = { 1, 1, 2, 3, 4, 8 }
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set('thread_number', threads)
end

local function hex(digits)
  local text = ''
  for _ = 1, digits / 4 do text = text .. string.format('%04X', math.random(0, 65535)) end
  return text
end

local size, sign_ins, known, identifies, made = 1, 0, 0, false, 0
local visits, head, event_prefix = {}, '', ''

local function visit_id()
  if known > 0 then return string.format('00000000-0000-4000-8000-%012x', math.random(0, known - 1)) end
  local id = hex(32):lower()
  return id:sub(1, 8) .. '-' .. id:sub(9, 12) .. '-4' .. id:sub(14, 16) .. '-8' .. id:sub(18, 20) .. '-' .. id:sub(21)
end

local function begin_visit(step)
  local id = visit_id()
  local user = (identifies or math.random() < sign_ins) and 'visitor-' .. math.random(1, 100000) .. '@shop.example' or nil
  return { id = id, step = step, at = 0, user = user, tail = '","visitID":"' .. id .. '","globalVisitID":"' .. id .. '"' }
end

local function enter_page(visit, number)
  visit.page = hex(32)
  visit.url = 'https://www.shop.example/catalogue/section-' .. number .. '/article-' .. math.random(1, 9999) .. '.html'
end

local function next_event(slot, is_sign_in)
  local visit = visits[slot]
  local step = visit.step
  local page, part = math.floor((step - 1) / STEPS) + 1, (step - 1) % STEPS
  local name, data = 'VisitStarted', '{}'
  if step == 0 then
    enter_page(visit, 1)
  elseif part == 0 then
    enter_page(visit, page)
    name, data = 'PageEntered', '{"title":"Article of section ' .. page .. ' - The Shop"}'
  elseif part == 2 then
    name = 'PageExited'
  else
    name, data = 'AddToCart', '{"product":"article-' .. step .. '","price":49.9,"currency":"EUR"}'
  end
  if is_sign_in or (page == 3 and part == 1 and visit.user) then
    name, data = 'SignIn', '{"userID":"' .. visit.user .. '","firstName":"Ann","lastName":"Visitor"}'
  end
  made = made + 1
  visit.at = math.max(visit.at + 1, os.time() * 1000)
  visit.step = step + 1
  local event = '{"eventName":"' .. name .. '","eventID":"' .. event_prefix .. string.format('%012X', made)
    .. '","pageID":"' .. visit.page .. '","timestamp":' .. string.format('%d', visit.at)
    .. ',"category":"shop;catalogue","url":"' .. visit.url .. '","languageCode":"en-US' .. visit.tail
    .. ',"data":' .. data .. '}'
  if visit.step > PAGES * STEPS then visits[slot] = begin_visit(0) end
  return event
end

function init(arguments)
  size, sign_ins = tonumber(arguments[1]), tonumber(arguments[2])
  local pause = tonumber(arguments[3])
  known, identifies = tonumber(arguments[4]), arguments[5] == '1'
  local seed = io.open('/dev/urandom', 'rb')
  local a, b, c, d = seed:read(4):byte(1, 4)
  seed:close()
  math.randomseed(a + b * 256 + c * 65536 + d * 16777216 + thread_number)
  event_prefix = hex(12) .. '4' .. hex(4):sub(1, 3) .. '8' .. hex(4):sub(1, 3)
  for slot = 1, ACTIVE do
    visits[slot] = begin_visit(math.random(0, PAGES * STEPS - 1))
    enter_page(visits[slot], 1)
  end
  head = 'POST /beacon HTTP/1.1\r\nHost: ' .. wrk.host .. ':' .. wrk.port
    .. '\r\nUser-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'
    .. '\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9'
    .. '\r\nOrigin: https://www.shop.example\r\nReferer: https://www.shop.example/'
    .. '\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: '
  if pause > 0 then
    function delay() return 2 * pause * math.random() end
  end
end

function request()
  local count = size > 0 and size or SIZES[math.random(#SIZES)]
  local slot = math.random(ACTIVE)
  if known > 0 then
    visits[slot] = begin_visit(math.random(0, PAGES * STEPS - 1))
    enter_page(visits[slot], 1)
  end
  local body
  if count == 1 then
    body = next_event(slot, identifies)
  else
    local events = {}
    for number = 1, count do
      events[number] = next_event(slot, identifies and number == 1)
    end
    body = '[' .. table.concat(events, ',') .. ']'
  end
  return head .. #body .. '\r\n\r\n' .. body
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%f,"failed":%d,"p50_ms":%f,"p99_ms":%f,"max_ms":%f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
