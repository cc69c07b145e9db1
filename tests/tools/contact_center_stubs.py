"""A contact center's clients of the three services, and what it reports and finds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from tests.tools.eventually import eventually
from tests.tools.suite import Suite


class ContactCenter(NamedTuple):
    """Stubs of the three services."""

    collector: Any
    identity: Any
    history: Any

    async def report(self, interaction_id: str, at_ms: int, **fields: Any) -> InteractionUpdate:
        """Report an interaction at a time; `start_time` and `end_time` are in milliseconds."""
        times = {name: fields.pop(name) for name in ("start_time", "end_time") if name in fields}
        update = InteractionUpdate(interaction_id=interaction_id, **fields)
        for name, value in (times | {"update_time": at_ms}).items():
            getattr(update, name).FromMilliseconds(value)
        request = collector.RecordInteractionRequest(interaction=update)
        answer: collector.RecordInteractionResponse = await self.collector.RecordInteraction(request, timeout=10)
        return answer.interaction

    async def listed(self, **about: Any) -> list[Any]:
        """The newest interactions. Raises AssertionError while history does not answer."""
        answer = await self._asked(self.history.ListInteractions, history.ListInteractionsRequest(**about))
        return [*answer.interactions]

    async def has_listed(self, count: int, **about: Any) -> bool:
        """Whether so many interactions are found."""
        return len(await self.listed(**about)) == count

    async def seen(self, visit: str) -> tuple[Any, Any, list[str]]:
        """A visit in live state and in history, and its id if it is live. Raises AssertionError until it is there."""
        live = await self._asked(self.identity.GetVisitor, identity.GetVisitorRequest(visit_id=visit))
        stored = await self._asked(self.history.GetVisit, history.GetVisitRequest(visit_id=visit))
        visitors = await self._asked(self.identity.ListVisitors, identity.ListVisitorsRequest(page_size=1_000))
        return live, stored, [one.visit_id for one in visitors.visitors if one.visit_id == visit]

    async def _asked(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=30, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}:
                raise AssertionError(error.code().name) from error
            raise


@asynccontextmanager
async def contact_center(suite: Suite) -> AsyncIterator[ContactCenter]:
    """The clients; with the role `contact-center` in a suite with mutual TLS."""
    if suite.authority:
        credentials = suite.channel_credentials("contact-center")
        channels = {name: grpc.aio.secure_channel(target, credentials) for name, target in suite.targets.items()}
    else:
        channels = {name: grpc.aio.insecure_channel(target) for name, target in suite.targets.items()}
    yield ContactCenter(
        CollectorServiceStub(channels["collector"]),
        IdentityServiceStub(channels["identity"]),
        HistoryServiceStub(channels["history"]),
    )
    await asyncio.gather(*(channel.close() for channel in channels.values()))


async def stored_visit(center: ContactCenter, visit: str, contact: str) -> tuple[Any, Any, list[str]]:
    """A visit as `seen`, once history has its events, of which there is more than one, and it has its contact."""

    async def stored() -> tuple[Any, Any, list[str]]:
        found = await center.seen(visit)
        assert found[1].visit.last_event_time.ToMilliseconds() > found[1].visit.start_time.ToMilliseconds()
        assert found[0].visitor.last_event_time == found[1].visit.last_event_time
        assert found[0].visitor.contact_id == contact
        return found

    return await eventually(stored)
