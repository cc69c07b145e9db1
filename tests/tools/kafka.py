"""A broker of the Kafka protocol on a port: that of librdkafka, made for tests. It keeps topics in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import confluent_kafka


@contextmanager
def running_broker() -> Iterator[tuple[str, int]]:
    """A broker that makes topics when they are used; gives its host and port."""
    owner = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    [broker] = owner.list_topics(timeout=30).brokers.values()
    yield broker.host, broker.port
    del owner
