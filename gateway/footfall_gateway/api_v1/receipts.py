"""Receipts: the outcome of an event that was accepted, by its ids."""

from typing import Annotated, Any, Literal

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.api_v1.resources import VisitorSnapshot, visitor_snapshot
from footfall_gateway.backends import Backends
from footfall_gateway.fields import EventId, SiteName, Time, VisitId
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response


class DeadLetter(msgspec.Struct, rename="camel"):
    """Why an event could not be stored, and when it became a dead letter."""

    reason: Annotated[str, Meta(description="Why it could not be stored, in English. For people.")]
    create_time: Annotated[Time, Meta(description="When it became a dead letter (ms).")]


class Receipt(msgspec.Struct, rename="camel"):
    """The outcome of an event: it is stored, or it is a dead letter."""

    visit_id: VisitId
    event_id: EventId
    site: SiteName
    received_time: Annotated[Time, Meta(description="When the server received the event (ms).")]
    status: Annotated[
        Literal["STORED", "DEAD_LETTER"], Meta(description="`DEAD_LETTER`: history could not store the event.")
    ]
    visitor: Annotated[
        VisitorSnapshot | None,
        Meta(description="The visitor at the time of the event, as known now; null unless `STORED`."),
    ]
    dead_letter: Annotated[DeadLetter | None, Meta(description="Why it is not stored; null unless `DEAD_LETTER`.")]


class ReceiptsApi:
    """Receipts of events."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._get = backends.history.GetReceipt

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        path = "/receipts/{visitId}/{eventId}"
        return [Operation("getReceipt", "GET", path, self.receipt, NoQuery, Receipt)]

    async def receipt(self, call: Call[NoQuery, None]) -> Response:
        """The outcome of an event that was accepted.

        404 until history has read the event from the event log, usually within two seconds. Also 404 when the event was
        rejected, left out or never sent, or its retention is over.
        """
        request = history.GetReceiptRequest(
            visit_id=call.uuid("visitId", "receipt"), event_id=call.uuid("eventId", "receipt")
        )
        return json_response(_receipt((await self._ask(self._get, request, call.principal)).receipt))


def _receipt(found: visit_pb2.Receipt) -> Receipt:
    letter = found.dead_letter if found.HasField("dead_letter") else None
    return Receipt(
        visit_id=found.visit_id,
        event_id=found.event_id,
        site=found.site,
        received_time=milliseconds(found.received_time),
        status="DEAD_LETTER" if letter else "STORED",
        visitor=None if letter else visitor_snapshot(found.stamp),
        dead_letter=DeadLetter(letter.reason, milliseconds(letter.create_time)) if letter else None,
    )
