"""Positions of outlets in Redis: bounded by what history has settled and by what the log still holds."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from footfall_eventlog.checkpoint_store import Position
from footfall_eventlog.log import HISTORY_GROUP, RELAY_GROUP, stream_key
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.stream import PAYLOAD_FIELD, mark_key
from footfall_relay.messages import EVENT, Reference
from footfall_relay.positions import DeadLetter, LeaseLostError, Positions, Reported

LOG = stream_key(0)
MARK = mark_key(LOG, HISTORY_GROUP)


@pytest.fixture
async def partitions(redis_database_url: str) -> AsyncIterator[PartitionedRedis]:
    redis = PartitionedRedis(redis_database_url, 1, timeout_ms=2_000)
    yield redis
    await redis.aclose()


def of(redis: PartitionedRedis, holder: str = "me") -> Positions:
    return Positions(redis, holder, known_days=1, max_dead_letters=3, dead_letter_days=1)


async def append(redis: Any, *payloads: bytes) -> list[str]:
    return [(await redis.xadd(LOG, {PAYLOAD_FIELD: payload})).decode() for payload in payloads]


async def test_a_new_outlet_begins_with_the_oldest_entry_and_reads_what_history_has_settled(
    partitions: PartitionedRedis, redis: Any
) -> None:
    positions = of(partitions)
    ids = await append(redis, b"1", b"2", b"3")
    begin = await positions.of("crm", 0)
    assert (await positions.read(0, begin, count=9, max_bytes=99)).entries == []
    await redis.hset(MARK, "confirmed", f"{ids[1]}/2")
    found = await positions.read(0, begin, count=9, max_bytes=99)
    assert [entry.payload for entry in found.entries] == [b"1", b"2"]
    assert (found.position, found.lost) == (Position(ids[1], 2), 0)
    assert (await positions.read(0, found.position, count=9, max_bytes=99)).entries == []
    first = await positions.read(0, begin, count=1, max_bytes=99)
    assert first.position == (await positions.read(0, begin, count=9, max_bytes=1)).position == Position(ids[0], 1)


async def test_what_the_log_no_longer_holds_is_counted(partitions: PartitionedRedis, redis: Any) -> None:
    positions = of(partitions)
    ids = await append(redis, b"1", b"2", b"3", b"4")
    await redis.hset(MARK, "confirmed", f"{ids[3]}/4")
    await redis.xtrim(LOG, maxlen=1, approximate=False)
    new = await positions.read(0, await positions.of("new", 0), count=9, max_bytes=99)
    assert (new.lost, [entry.payload for entry in new.entries]) == (0, [b"4"])
    old = await positions.read(0, Position(ids[0], 1), count=9, max_bytes=99)
    assert (old.lost, old.entries, old.position) == (2, new.entries, Position(ids[3], 4))


async def test_a_position_of_a_log_that_is_gone_begins_anew(partitions: PartitionedRedis, redis: Any) -> None:
    [only] = await append(redis, b"1")
    await redis.hset(MARK, "confirmed", f"{only}/1")
    found = await of(partitions).read(0, Position("9999999999999-0", 7), count=9, max_bytes=99)
    assert (found.lost, found.position) == (0, Position(only, 1))


async def test_one_process_has_a_partition_and_another_cannot_move_its_outlets(partitions: PartitionedRedis) -> None:
    mine, other = of(partitions), of(partitions, "other")
    assert await mine.hold(0)
    assert await mine.hold(0)
    assert not await other.hold(0)
    reported = {"a visit": Reported(5, "an event", b'[["","x"]]')}
    await mine.move("crm", 0, Position("5-0", 5), reported)
    assert await other.of("crm", 0) == Position("5-0", 5)
    assert await other.reported("crm", 0, ["a visit", "another"]) == reported
    with pytest.raises(LeaseLostError):
        await other.move("crm", 0, Position("9-0", 9), {})
    await other.release(0)
    assert not await other.hold(0)
    await mine.release(0)
    assert await other.hold(0)


async def test_the_log_is_marked_with_the_earliest_position_while_there_are_outlets(
    partitions: PartitionedRedis, redis: Any
) -> None:
    positions = of(partitions)
    await positions.mark(0, ["a"])
    ids = await append(redis, b"1", b"2")
    await positions.hold(0)
    for outlet, entry_id, ordinal in (("a", ids[1], 2), ("b", ids[0], 1)):
        await positions.move(outlet, 0, Position(entry_id, ordinal), {})
    await positions.mark(0, ["a", "b"])
    [group] = await redis.xinfo_groups(LOG)
    assert (group["name"], group["last-delivered-id"]) == (RELAY_GROUP.encode(), ids[0].encode())
    assert await positions.lag_s("b", 0) > 0 == await positions.lag_s("a", 0)
    await positions.mark(0, [])
    assert await redis.xinfo_groups(LOG) == []


async def test_dead_letters_are_bounded_and_pauses_are_kept(partitions: PartitionedRedis) -> None:
    positions = of(partitions)
    letters = [DeadLetter(Reference(EVENT, str(number), "visit", "event"), "500", number) for number in range(5)]
    assert await positions.put_dead("crm", letters[:2]) == 0
    assert await positions.put_dead("crm", letters[2:]) == 2
    assert await positions.dead("crm", 9) == letters[2:]
    await positions.remove_dead("crm", letters[2:4])
    assert await positions.count_dead("crm") == 1
    await positions.pause("crm", is_paused=True)
    assert await positions.paused() == {"crm"}
    await positions.pause("crm", is_paused=False)
    assert await positions.paused() == set()
