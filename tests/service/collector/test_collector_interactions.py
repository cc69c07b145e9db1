"""Interactions at the collector: what it stores in the log, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall.event.v1.interaction_pb2 import INTERACTION_CHANNEL_CHAT, InteractionUpdate
from footfall_collector.interactions import RateLimit
from footfall_eventlog.log import stream_key
from footfall_servicekit.errors import details_of
from google.protobuf.message import Message
from redis.asyncio import Redis

from tests.tools.batches import batch, message, new_uuid
from tests.tools.process import Running, ServiceProcess
from tests.tools.visits import now_ms

Record = collector.RecordInteractionRequest


@pytest.fixture
async def common_redis(own_redis_url: str) -> AsyncIterator[Any]:
    """The Redis of the collector with default settings."""
    async with Redis.from_url(own_redis_url) as redis:
        yield redis


async def logged(redis: Any) -> list[InteractionUpdate]:
    """The updates in the log."""
    entries = [EventBatch.FromString(fields[b"b"]) for _, fields in await redis.xrange(stream_key(0))]
    return [entry.interaction for entry in entries if entry.HasField("interaction")]


async def refused(service: ServiceProcess, request: Message) -> Any:
    """The details of the error of a request."""
    async with service.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.RecordInteraction(request, timeout=10)
    return details_of(raised.value)


async def test_an_update_is_logged_normalised_and_masked(service: ServiceProcess, common_redis: Any) -> None:
    given = InteractionUpdate(
        interaction_id=new_uuid(),
        phone="+49 (30) 901820",
        channel=INTERACTION_CHANNEL_CHAT,
        agent="anna@center.example",
        queue="",
        note="card 4111 1111 1111 1111, mail dana@shop.example",
        data_json=b'{"password":"secret","mood":3}',
        site="of the sender",
        scope="of the sender",
    )
    given.update_time.FromNanoseconds(1_700_000_000_123_456_789)
    given = InteractionUpdate.FromString(given.SerializeToString() + b"\xfa\x3e\x05hello")  # and an unknown field
    before_ms = now_ms()
    async with service.stub() as stub:
        answer = (await stub.RecordInteraction(Record(interaction=given))).interaction
        given.ClearField("update_time")
        unclocked = (await stub.RecordInteraction(Record(interaction=given))).interaction
    assert (answer.phone, answer.channel, answer.agent) == (
        "+4930901820",
        INTERACTION_CHANNEL_CHAT,
        "anna@center.example",
    )
    assert answer.note == "card ***, mail dana@shop.example"
    assert answer.data_json == b'{"password":"***","mood":3}'
    assert (answer.site, answer.scope, answer.HasField("queue")) == ("", "", True)
    assert answer.update_time.ToNanoseconds() == 1_700_000_000_123_000_000
    assert before_ms <= unclocked.update_time.ToMilliseconds() <= now_ms()
    assert [*await logged(common_redis)][-2:] == [answer, unclocked]
    assert b"hello" not in answer.SerializeToString()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("interaction_id", {"interaction_id": ""}),
        ("interaction_id", {"interaction_id": "a\nb"}),
        ("interaction_id", {"interaction_id": "x" * 129}),
        ("about", {"contact_id": None}),
        ("contact_id", {"contact_id": ""}),
        ("identity_id", {"identity_id": "x" * 513}),
        ("visit_id", {"visit_id": "no uuid"}),
        ("phone", {"phone": "030 901820"}),
        ("phone", {"phone": "+49"}),
        ("channel", {"channel": 99}),
        ("agent", {"agent": "x" * 257}),
        ("note", {"note": "x" * 4_097}),
        ("data_json", {"data_json": b"[]"}),
        ("data_json", {"data_json": b'{"a":"%b"}' % (b"x" * 8_192)}),
    ],
)
async def test_a_field_that_breaks_its_rule_is_named(
    service: ServiceProcess, field: str, wrong: dict[str, Any]
) -> None:
    fields = {
        name: value for name, value in ({"interaction_id": "i", "contact_id": "c"} | wrong).items() if value is not None
    }
    if {"identity_id", "visit_id", "phone"} & wrong.keys():
        del fields["contact_id"]
    details = await refused(service, Record(interaction=InteractionUpdate(**fields)))
    assert details.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [name for name, _ in details.violations] == [f"interaction.{field}"]
    assert "x" * 20 not in details.message


async def test_times_that_cannot_be_are_refused(service: ServiceProcess) -> None:
    update = InteractionUpdate(interaction_id="i", contact_id="c")
    update.start_time.FromMilliseconds(2_000)
    update.end_time.FromMilliseconds(1_000)
    update.update_time.FromMilliseconds(now_ms() + 400_000)
    details = await refused(service, Record(interaction=update))
    assert [name for name, _ in details.violations] == ["interaction.update_time", "interaction.end_time"]
    update = InteractionUpdate(interaction_id="i", contact_id="c")
    for seconds in (10**15, now_ms() // 1_000 + 400):
        update.start_time.seconds = seconds
        details = await refused(service, Record(interaction=update))
        assert [name for name, _ in details.violations] == ["interaction.start_time"]


async def test_a_caller_of_sites_must_name_a_visit(service: ServiceProcess) -> None:
    about_contact = InteractionUpdate(interaction_id="i", contact_id="c")
    details = await refused(service, Record(interaction=about_contact, sites=["shop"]))
    assert [name for name, _ in details.violations] == ["interaction.visit_id"]


async def test_while_no_service_can_say_whether_a_visit_is_known_it_is_unavailable(service: ServiceProcess) -> None:
    details = await refused(service, Record(interaction=InteractionUpdate(interaction_id="i", visit_id=new_uuid())))
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_more_in_a_second_than_allowed_are_refused(running_collector: Running) -> None:
    async with running_collector(COLLECTOR_MAX_INTERACTIONS_PER_SECOND=2, IDENTITY_PHONE_REGION="DE") as service:
        async with service.stub() as stub:
            for number in range(2):
                update = InteractionUpdate(interaction_id=f"i{number}", phone="030 901820")
                stored = (await stub.RecordInteraction(Record(interaction=update))).interaction
                assert stored.phone == "+4930901820"
            about = [InteractionUpdate(interaction_id=f"j{number}", contact_id="c") for number in range(100)]
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asyncio.gather(*(stub.RecordInteraction(Record(interaction=one)) for one in about))
        details = details_of(raised.value)
        assert (details.code, details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert details.retry_ms == 1_000


def test_the_limit_of_a_second_fills_up_again() -> None:
    rate = RateLimit(2)
    assert [rate.takes_one(10.0) for _ in range(3)] == [True, True, False]
    assert [rate.takes_one(10.5) for _ in range(2)] == [True, False]
    assert [rate.takes_one(60.0) for _ in range(3)] == [True, True, False]


async def test_a_batch_of_events_may_not_carry_an_interaction(service: ServiceProcess) -> None:
    sent = batch(message())
    sent.interaction.interaction_id = "i"
    async with service.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Collect(collector.CollectRequest(batch=sent), timeout=10)
    assert [name for name, _ in details_of(raised.value).violations] == ["batch.interaction"]
