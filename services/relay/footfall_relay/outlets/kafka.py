"""Kafka: messages of a visit go to one partition of the topic, in order."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import aiokafka
from aiokafka import errors
from aiokafka.helpers import create_ssl_context

from footfall_relay.messages import CONTENT_TYPE, Message, encode
from footfall_relay.outlets.attempts import Attempts
from footfall_relay.outlets.kinds import Refused
from footfall_relay.outlets_file import Kafka

_HEADERS: Final = [("content-type", CONTENT_TYPE.encode())]
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
_REFUSALS: Final = (errors.MessageSizeTooLargeError, errors.InvalidMessageError)
"""Of one message, which no other attempt would change."""


class KafkaSink:
    """The sink of a topic. The producer is idempotent: it repeats what may be lost, and the broker drops repetitions.

    It waits for a broker that does not answer, and for a topic, for as long as it takes.
    """

    holds = False

    def __init__(self, outlet: Kafka) -> None:
        self._outlet = outlet
        self._producer: Any = None  # aiokafka has no types

    async def put(self, messages: Sequence[Message]) -> list[Refused]:
        """Deliver; return what is given up."""
        attempts = Attempts(
            self._outlet.name, first_pause_s=_FIRST_PAUSE_S, last_pause_s=_LAST_PAUSE_S, give_up_s=float("inf")
        )
        while True:
            try:
                refused = await self._send(messages)
            except (errors.KafkaError, OSError, TimeoutError) as error:
                # What follows a failure is sent again with it, by a new producer: order within a visit stays.
                await self.close()
                await attempts.failed(type(error).__name__)
            else:
                attempts.worked()
                return refused

    async def flush(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        """Close the connections."""
        producer, self._producer = self._producer, None
        if producer:
            with suppress(errors.KafkaError, OSError):
                await producer.stop()

    async def _send(self, messages: Sequence[Message]) -> list[Refused]:
        if self._producer is None:
            producer = aiokafka.AIOKafkaProducer(**self._options())
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        sent = []
        refused = []
        for message in messages:
            value = encode(message.cloud_event())
            try:
                future = await self._producer.send(
                    self._outlet.topic, value, key=message.key.encode(), headers=_HEADERS
                )
            except _REFUSALS as error:
                refused.append(Refused(message, type(error).__name__))
            else:
                sent.append((message, future))
        results = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (message, _), result in zip(sent, results, strict=True):
            if isinstance(result, _REFUSALS):
                refused.append(Refused(message, type(result).__name__))
            elif isinstance(result, BaseException):
                raise result
        return refused

    def _options(self) -> dict[str, Any]:
        outlet = self._outlet
        options: dict[str, Any] = {
            "bootstrap_servers": list(outlet.servers),
            "client_id": f"footfall-relay-{outlet.name}",
            "enable_idempotence": True,
            "acks": "all",
            "security_protocol": f"{'SASL_' if outlet.user else ''}{'SSL' if outlet.tls else 'PLAINTEXT'}",
        }
        if outlet.tls:
            options["ssl_context"] = create_ssl_context(cafile=outlet.ca_file or None)
        if outlet.user:
            options |= {
                "sasl_mechanism": outlet.mechanism,
                "sasl_plain_username": outlet.user,
                "sasl_plain_password": os.environ.get(outlet.password_env, ""),
            }
        return options
