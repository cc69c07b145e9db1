"""Kafka: messages go to a real broker, those of a visit in order, and wait while it does not answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from footfall_relay.messages import EVENT, Message, Reference
from footfall_relay.outlets import open_sink
from footfall_relay.outlets_file import Kafka

from tests.tools.eventually import eventually
from tests.tools.kafka import broker_binary, running_broker
from tests.tools.ports import free_ports

TOPIC = "footfall"
PARTITIONS = 3


def messages(visits: int, events: int, *, size: int = 10) -> list[Message]:
    return [
        Message(
            Reference(EVENT, f"{number:06d}", f"visit-{visit}", f"event-{number}"),
            f"visit-{visit}",
            "shop",
            number,
            {"data": "x" * size},
        )
        for number in range(events)
        for visit in range(visits)
    ]


async def create_topic(server: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=server)

    async def created() -> bool:
        try:
            await admin.start()
        except aiokafka.errors.KafkaError:
            return False
        return True

    try:
        await eventually(created, every=0.2)
        await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    finally:
        await admin.close()


async def consumed(server: str, count: int) -> list[Any]:
    consumer = aiokafka.AIOKafkaConsumer(TOPIC, bootstrap_servers=server, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    return broker_binary(tmp_path)


async def test_messages_wait_for_the_broker_and_those_of_a_visit_are_in_order_in_one_partition(binary: Path) -> None:
    [port] = free_ports(1)
    sink = open_sink(Kafka(name="lake", servers=(f"127.0.0.1:{port}",), topic=TOPIC), 0)
    sent = messages(visits=5, events=40)
    putting = asyncio.create_task(sink.put(sent[:100]))
    await asyncio.sleep(0.5)
    assert not putting.done()
    with running_broker(binary, port) as server:
        await create_topic(server)
        assert await putting == []
        assert await sink.put(sent[100:]) == []
        await sink.close()
        found = await consumed(server, len(sent))
    places: dict[str, set[int]] = {}
    sequences: dict[str, list[str]] = {}
    for record in found:
        value = json.loads(record.value)
        assert record.key.decode() == value["partitionkey"] == value["subject"]
        assert dict(record.headers)["content-type"] == b"application/cloudevents+json"
        places.setdefault(value["subject"], set()).add(record.partition)
        sequences.setdefault(value["subject"], []).append(value["sequence"])
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set.union(*places.values())) > 1
    assert all(found == [f"{number:06d}" for number in range(40)] for found in sequences.values())


async def test_a_message_that_is_too_large_is_given_up_and_holds_up_no_other(binary: Path) -> None:
    [port] = free_ports(1)
    with running_broker(binary, port) as server:
        await create_topic(server)
        sink = open_sink(Kafka(name="lake", servers=(server,), topic=TOPIC), 0)
        [small], [large] = messages(1, 1), messages(1, 1, size=2_000_000)
        [refused] = await sink.put([large, small])
        await sink.close()
        assert (refused.message, refused.reason) == (large, "MessageSizeTooLargeError")
        assert len(await consumed(server, 1)) == 1
