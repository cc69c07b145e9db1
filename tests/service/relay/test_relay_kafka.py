"""Kafka: messages go to a broker, those of a visit in order, and wait while it does not answer.

The broker is that of librdkafka for tests, which is no part of aiokafka. No package registry has a real one that knows
idempotent producers of aiokafka.
"""

import asyncio
import json
from typing import Any

import aiokafka
from footfall_relay.messages import EVENT, Message, Reference
from footfall_relay.outlets import open_sink
from footfall_relay.outlets_file import Kafka

from tests.tools.gate import Gate
from tests.tools.kafka import running_broker
from tests.tools.ports import free_ports

TOPIC = "footfall"


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


async def consumed(broker: tuple[str, int], count: int) -> list[Any]:
    host, port = broker
    consumer = aiokafka.AIOKafkaConsumer(TOPIC, bootstrap_servers=f"{host}:{port}", auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_messages_wait_for_the_broker_and_those_of_a_visit_are_in_order_in_one_partition() -> None:
    [port] = free_ports(1)
    sink = open_sink(Kafka(name="lake", servers=(f"127.0.0.1:{port}",), topic=TOPIC), 0)
    sent = messages(visits=5, events=40)
    with running_broker() as broker:
        putting = asyncio.create_task(sink.put(sent[:100]))
        await asyncio.sleep(1.5)
        assert not putting.done()
        gate = Gate(f"kafka://{broker[0]}:{broker[1]}")
        gate.port = port
        await gate.open()
        assert await putting == []
        await gate.close()
        assert await sink.put(sent[100:]) == []
        await sink.close()
        found = await consumed(broker, len(sent))
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


async def test_a_message_that_is_too_large_is_given_up_and_holds_up_no_other() -> None:
    [small], [large] = messages(1, 1), messages(1, 1, size=2_000_000)
    with running_broker() as broker:
        host, port = broker
        sink = open_sink(Kafka(name="lake", servers=(f"{host}:{port}",), topic=TOPIC), 0)
        [refused] = await sink.put([large, small])
        await sink.close()
        assert (refused.message, refused.reason) == (large, "MessageSizeTooLargeError")
        assert len(await consumed(broker, 1)) == 1
