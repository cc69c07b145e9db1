"""The marks that consumer groups keep in Redis beside the event log, for `checkpoints`.

A mark is the hash `checkpoint:{p00}:<group>`:

| field | value |
|---|---|
| `epoch` | of this state of Redis. Later epochs are greater |
| `start` | how many entries had been removed when the epoch began |
| `intended` | the latest position that was to be the checkpoint in MongoDB. The checkpoint is not after it |
| `confirmed` | the position that certainly is, or was, the checkpoint in MongoDB |
| `again_until` | the last entry that had been delivered when the group was set back |
| `set_backs` | how often the group was set back |
"""

from typing import Any, Final, NamedTuple, Self

from footfall_eventlog.checkpoint_store import Position, order_of
from footfall_eventlog.log import stream_key
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.stream import mark_key

_FUNCTIONS: Final = """
local function ordinal(position) return tonumber(position:match('/(%d+)$')) end
local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end
local function stream_of(key)
  if redis.call('EXISTS', key) == 0 then return {added = 0, removed = 0, oldest = '0-0'} end
  local about = fields_of(redis.call('XINFO', 'STREAM', key))
  local first = about['first-entry']
  return {
    added = about['entries-added'],
    removed = about['entries-added'] - about.length,
    oldest = first and first[1] or about['last-generated-id'],
  }
end
local function group_of(key, name)
  if redis.call('EXISTS', key) == 0 then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = fields_of(flat)
    if group.name == name then return group end
  end
end
"""
# KEYS  stream, mark.  ARGV  group.  Returns a list as in `Mark`.
_LOOK: Final = f"""{_FUNCTIONS}
local mark = redis.call('HMGET', KEYS[2], 'epoch', 'start', 'intended', 'confirmed')
local server = redis.pcall('INFO', 'server')
local node = type(server) == 'string' and server:match('run_id:(%w+)')
local stream, group = stream_of(KEYS[1]), group_of(KEYS[1], ARGV[1])
local pending = group and group.pending > 0 and redis.call('XPENDING', KEYS[1], ARGV[1])[2]
return {{
  mark[1] or '', mark[2] or '0', mark[3] or '', mark[4] or '', node or '',
  stream.added, stream.removed, stream.oldest,
  group and group['last-delivered-id'] or '', group and group['entries-read'] or -1, pending or '',
}}
"""
# KEYS  stream, mark.  ARGV  the epoch and the intended position that were seen, the new epoch.
_RENEW: Final = f"""{_FUNCTIONS}
local mark = redis.call('HMGET', KEYS[2], 'epoch', 'intended')
if (mark[1] or '') ~= ARGV[1] or (mark[2] or '') ~= ARGV[2] then return 0 end
local start = stream_of(KEYS[1]).removed
redis.call('DEL', KEYS[2])
return redis.call('HSET', KEYS[2], 'epoch', ARGV[3], 'start', start, 'intended', '0-0/' .. start)
"""
# KEYS  stream, mark.  ARGV  epoch, the intended position that was seen, the next one. An earlier one is not noted:
# another process may be writing the position that was seen.
_INTEND: Final = f"""{_FUNCTIONS}
local mark = redis.call('HMGET', KEYS[2], 'epoch', 'intended')
if mark[1] ~= ARGV[1] or mark[2] ~= ARGV[2] then return 0 end
if ordinal(mark[2]) < ordinal(ARGV[3]) then redis.call('HSET', KEYS[2], 'intended', ARGV[3]) end
return 1
"""
# KEYS  stream, mark.  ARGV  epoch, the position that MongoDB has.
_CONFIRM: Final = f"""{_FUNCTIONS}
local mark = redis.call('HMGET', KEYS[2], 'epoch', 'confirmed')
if mark[1] ~= ARGV[1] then return end
if not mark[2] or ordinal(mark[2]) < ordinal(ARGV[2]) then redis.call('HSET', KEYS[2], 'confirmed', ARGV[2]) end
"""
# KEYS  stream, mark.  ARGV  group, epoch, the confirmed position and the number of removed entries that were seen, id
# and ordinal of the position to continue from.
_SET_BACK: Final = f"""{_FUNCTIONS}
local stream, group = stream_of(KEYS[1]), group_of(KEYS[1], ARGV[1])
local mark = redis.call('HMGET', KEYS[2], 'epoch', 'confirmed', 'again_until')
if mark[1] ~= ARGV[2] or (mark[2] or '') ~= ARGV[3] or stream.removed ~= tonumber(ARGV[4]) then return 0 end
local position = ARGV[5] .. '/' .. ARGV[6]
redis.call('HSET', KEYS[2], 'confirmed', position)
redis.call('HINCRBY', KEYS[2], 'set_backs', 1)
if group then
  local function parts(id) return tonumber(id:match('^%d+')), tonumber(id:match('%d+$')) end
  local ms, sequence = parts(group['last-delivered-id'])
  local known_ms, known_sequence = parts(mark[3] or '0-0')
  if ms > known_ms or (ms == known_ms and sequence > known_sequence) then
    redis.call('HSET', KEYS[2], 'again_until', group['last-delivered-id'])
  end
  local read = math.max(tonumber(ARGV[6]), stream.removed)
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[5], 'ENTRIESREAD', read)
end
return 1
"""


class Mark(NamedTuple):
    """What Redis says of a group in a partition.

    - `epoch`: of this state of Redis; empty: it has none yet. Later epochs are greater.
    - `start`: the entries that had been removed when the epoch began.
    - `node`: the process of Redis; empty if the server does not report it.
    - `added`, `removed`, `oldest`: counts of the stream's entries, and the id of the first that is left.
    - `delivered`, `ordinal`: the group's position; empty and -1 while they are not known.
    - `pending`: the oldest entry that is delivered and not acknowledged; empty: there is none.
    """

    epoch: str
    start: int
    intended: Position | None
    confirmed: Position | None
    node: str
    added: int
    removed: int
    oldest: str
    delivered: str
    ordinal: int
    pending: str

    @classmethod
    def of(cls, answer: list[Any]) -> Self:
        """The answer of _LOOK."""
        values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in answer]
        epoch, start, intended, confirmed, *others = values
        return cls(epoch, int(start), Position.read(intended), Position.read(confirmed), *others)

    @property
    def first_position(self) -> Position:
        """The position before all entries of the epoch."""
        return Position("0-0", self.start)

    @property
    def position(self) -> Position | None:
        """The group's position: after the last entry that was delivered."""
        return Position(self.delivered, self.ordinal) if self.delivered and self.ordinal >= 0 else None

    def is_handled(self, position: Position) -> bool:
        """Whether all entries up to a position are acknowledged."""
        if not self.delivered or order_of(self.delivered) < order_of(position.id):
            return False
        return not self.pending or order_of(self.pending) > order_of(position.id)


class Marks:
    """The marks of one group. Methods raise TRANSIENT_ERRORS.

    Those that write return False, and do nothing, if the mark is no longer the one that is given.
    """

    def __init__(self, redis: PartitionedRedis, group: str) -> None:
        self._redis = redis
        self._group = group

    def _key(self, number: int) -> str:
        return mark_key(stream_key(number), self._group)

    async def _run(self, script: str, number: int, *arguments: Any) -> Any:
        return await self._redis[number].eval(script, 2, stream_key(number), self._key(number), *arguments)

    async def look(self, number: int) -> Mark:
        """The mark of a partition, and where its group is."""
        return Mark.of(await self._run(_LOOK, number, self._group))

    async def renew(self, number: int, seen: Mark, epoch: str) -> bool:
        """Begin an epoch."""
        return bool(await self._run(_RENEW, number, seen.epoch, _text(seen.intended), epoch))

    async def intend(self, number: int, seen: Mark, position: Position) -> bool:
        """Note the position that will be written to MongoDB, unless a later one is noted."""
        return bool(await self._run(_INTEND, number, seen.epoch, _text(seen.intended), position.text))

    async def confirm(self, number: int, epoch: str, position: Position) -> None:
        """Note the position that was written to MongoDB, unless a later one is noted or the epoch is over."""
        await self._run(_CONFIRM, number, epoch, position.text)

    async def set_back(self, number: int, seen: Mark, position: Position) -> bool:
        """Let the group continue from an earlier position, if no entry has been removed since `seen`."""
        about = seen.epoch, _text(seen.confirmed), seen.removed
        return bool(await self._run(_SET_BACK, number, self._group, *about, *position))

    async def read_again_until(self, number: int) -> str:
        """The id up to which entries may be read again because the group was set back; empty: it never was.

        The id is followed by `/` and the number of times, so that each time is noticed.
        """
        until, count = await self._redis[number].hmget(self._key(number), "again_until", "set_backs")
        return f"{until.decode()}/{(count or b'0').decode()}" if until else ""


def _text(position: Position | None) -> str:
    return position.text if position else ""
