"""Turns the ids of an event into the question what became of it, and history's answer into a receipt."""

from typing import Any, Literal

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from starlette.responses import Response

from footfall_gateway.api_v1.resources import VisitorSnapshot, visitor_snapshot
from footfall_gateway.backends import Backends
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response


class DeadLetter(msgspec.Struct, rename="camel"):
    """Why an event could not be stored, and since when it lies aside."""

    reason: str
    create_time: int


class Receipt(msgspec.Struct, rename="camel"):
    """What became of an event: either it is stored, or it lies aside."""

    visit_id: str
    event_id: str
    site: str
    received_time: int
    status: Literal["STORED", "DEAD_LETTER"]
    visitor: VisitorSnapshot | None
    """Of a stored event: who the visitor was, by what is known now."""
    dead_letter: DeadLetter | None


class ReceiptsApi:
    """What became of events."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._get = backends.history.GetReceipt

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        path = "/receipts/{visitId}/{eventId}"
        return [Operation("getReceipt", "GET", path, self.receipt, NoQuery, Receipt)]

    async def receipt(self, call: Call[NoQuery, None]) -> Response:
        """What became of an event that was accepted.

        404 as long as history has not read it from the log, which is most often less than two seconds, and when it has
        expired, or was rejected, suppressed or never sent.
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
