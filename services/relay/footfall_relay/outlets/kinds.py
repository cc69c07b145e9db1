"""The kinds of outlets. The libraries of Kafka and Parquet are loaded only where such an outlet is configured."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from footfall_relay.messages import Message
from footfall_relay.outlets_file import Kafka, Outlet, Parquet, Webhook


class Refused(NamedTuple):
    """A message that is given up, and why: an HTTP status, or the name of an error."""

    message: Message
    reason: str


class Sink(Protocol):
    """Takes messages in order, with all attempts that it makes. It never gives up by an exception.

    What it has taken may be lost until `flush`, if it `holds` messages.
    """

    async def put(self, messages: Sequence[Message]) -> list[Refused]:
        """Deliver; return what is given up."""
        ...

    @property
    def holds(self) -> bool:
        """Whether messages that were put wait for `flush`, which is not due yet."""
        ...

    async def flush(self) -> None:
        """Return when all that was put is safe."""
        ...

    async def close(self) -> None:
        """Close connections. What is not flushed is lost."""
        ...


def open_sink(outlet: Outlet, number: int) -> Sink:
    """The sink of an outlet for a partition. Create it in the running event loop."""
    match outlet:
        case Webhook():
            from footfall_relay.outlets.webhook import WebhookSink  # noqa: PLC0415  # as below

            return WebhookSink(outlet)
        case Kafka():
            from footfall_relay.outlets.kafka import KafkaSink  # noqa: PLC0415  # aiokafka may be missing

            return KafkaSink(outlet)
        case Parquet():
            from footfall_relay.outlets.parquet import ParquetSink  # noqa: PLC0415  # pyarrow may be missing

            return ParquetSink(outlet, number)
        case _:
            raise TypeError(outlet.name)
