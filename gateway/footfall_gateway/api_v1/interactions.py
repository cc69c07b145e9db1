"""Operations of interactions: the collector stores what the contact center reports, and history answers."""

from typing import Annotated, Any, Final

import msgspec
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.interaction_pb2 import INTERACTION_CHANNEL_UNSPECIFIED, InteractionUpdate
from footfall.history.v1 import history_service_pb2 as history
from footfall_eventlog.events import MAX_TIMESTAMP_MS
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import KeyScope
from footfall_gateway.backends import Backends
from footfall_gateway.fields import ContactId, IdentityId, SentUuid, SiteName, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

_PARAMETERS: Final = {"scope.start_time": "from", "scope.end_time": "to"}
_KEPT: Final = "Not given or null: as it is."
_SentTime = Annotated[int, Meta(ge=1, le=MAX_TIMESTAMP_MS)]


class InteractionBody(msgspec.Struct, rename="camel"):
    """What the contact center reports of an interaction. Exactly one of visitId, identityId, contactId, phone.

    An interaction that was reported before is changed. A text that is given empty becomes empty.
    """

    interaction_id: resources.InteractionId
    visit_id: Annotated[SentUuid, Meta(description="The visit that it is about; must be known.")] | None = None
    identity_id: Annotated[IdentityId, Meta(description="The identity that it is about.")] | None = None
    contact_id: Annotated[ContactId, Meta(description="The contact that it is about.")] | None = None
    phone: (
        Annotated[
            str,
            Meta(
                description="The telephone number that it is about, in any spelling, with `+` and country code unless "
                "`IDENTITY_PHONE_REGION` is set.",
                extra_json_schema={"maxLength": 64},
            ),
        ]
        | None
    ) = None
    channel: Annotated[resources.Channel, Meta(description=f"The channel. {_KEPT}")] | None = None
    agent: Annotated[resources.Name, Meta(description=f"The agent. {_KEPT}")] | None = None
    queue: Annotated[resources.Name, Meta(description=f"The queue. {_KEPT}")] | None = None
    start_time: Annotated[_SentTime, Meta(description=f"When it began (ms). {_KEPT}")] | None = None
    end_time: Annotated[_SentTime, Meta(description=f"When it ended (ms). {_KEPT}")] | None = None
    disposition: Annotated[resources.Name, Meta(description=f"The result. {_KEPT}")] | None = None
    note: Annotated[str, Meta(description=f"A note of the agent. {_KEPT}")] | None = None
    data: Annotated[dict[str, msgspec.Raw], Meta(description=f"Further data, replaced as a whole. {_KEPT}")] | None = (
        None
    )
    update_time: (
        Annotated[
            _SentTime,
            Meta(
                description="The time of this report by the contact center's clock (ms): of two values of a field the "
                "one with the later time stays. Not given or null: now."
            ),
        ]
        | None
    ) = None


class RecordedInteraction(msgspec.Struct, rename="camel"):
    """What is stored of a report."""

    interaction_id: resources.InteractionId
    update_time: Annotated[Time, Meta(description="The time of the report: as given, or that of its arrival (ms).")]
    site: Annotated[SiteName | None, Meta(description="The website of the visit; null without a visit.")]


class InteractionsPageQuery(msgspec.Struct, kw_only=True):
    """One page of interactions."""

    page_size: Annotated[int, Meta(description="Maximum number of interactions.", ge=1, le=1_000)] = 50
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; all other parameters must be the same.")
    ] = ""


class InteractionsQuery(InteractionsPageQuery, kw_only=True):
    """Filters of interactions. At most one of identityId, contactId and phone."""

    identity_id: Annotated[
        str,
        Meta(
            description="Only interactions about this identity, also about a visit while it belonged to it.",
            extra_json_schema={"maxLength": 512},
        ),
    ] = msgspec.field(name="identityId", default="")
    contact_id: Annotated[
        str,
        Meta(
            description="Only interactions about this contact, its telephone numbers, or the identities linked to it.",
            extra_json_schema={"maxLength": 256},
        ),
    ] = msgspec.field(name="contactId", default="")
    phone: Annotated[
        str, Meta(description="Only interactions about this telephone number.", extra_json_schema={"maxLength": 64})
    ] = ""
    agent: Annotated[
        str, Meta(description="Only interactions of this agent.", extra_json_schema={"maxLength": 256})
    ] = ""
    from_ms: (
        Annotated[int, Meta(description="Only those that began at this time (ms) or later.", ge=0, le=MAX_TIMESTAMP_MS)]
        | UnsetType
    ) = msgspec.field(name="from", default=UNSET)
    to_ms: (
        Annotated[int, Meta(description="Only those that began before this time (ms).", ge=0, le=MAX_TIMESTAMP_MS)]
        | UnsetType
    ) = msgspec.field(name="to", default=UNSET)


class InteractionsApi:
    """What a contact center reports of its calls, chats and messages."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._record = backends.collector.RecordInteraction
        self._history = backends.history

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        found = resources.Interactions
        return [
            Operation(
                "recordInteraction",
                "POST",
                "/interactions",
                self.record,
                NoQuery,
                RecordedInteraction,
                InteractionBody,
                KeyScope.CONTACTS,
                errors={404: "The visit is not known, or this key may not see it."},
                example={
                    "interactionId": "call-4711",
                    "identityId": "dana@example.com",
                    "channel": "VOICE",
                    "agent": "mia",
                    "queue": "loans",
                    "note": "asks about the rate",
                },
            ),
            Operation(
                "listInteractions",
                "GET",
                "/interactions",
                self.interactions,
                InteractionsQuery,
                found,
                errors={404: "The identity or contact is not known, or this key may not see it."},
            ),
            Operation(
                "getInteraction",
                "GET",
                "/interactions/{interactionId}",
                self.interaction,
                NoQuery,
                resources.Interaction,
            ),
            Operation(
                "listVisitInteractions",
                "GET",
                "/visits/{visitId}/interactions",
                self.of_visit,
                InteractionsPageQuery,
                found,
            ),
        ]

    async def record(self, call: Call[NoQuery, InteractionBody]) -> Response:
        """Report an interaction, or what has changed of it. Reports may be repeated and come in any order.

        It is no event of the visitor: the visit's last activity and place in lists stay as they are. An identity, a
        contact and a telephone number need not be known; a visit must. A key that is limited to sites may name visits
        of its sites only, and its interactions have ids of their own.
        """
        given = call.body
        about = {"visit_id": given.visit_id, "identity_id": given.identity_id}
        about |= {"contact_id": given.contact_id, "phone": given.phone}
        named = {name: value for name, value in about.items() if value is not None}
        if len(named) != 1:
            raise Problem(400, "exactly one of visitId, identityId, contactId, phone is required")
        update = InteractionUpdate(
            interaction_id=given.interaction_id,
            channel=resources.CHANNELS[given.channel] if given.channel else INTERACTION_CHANNEL_UNSPECIFIED,
            agent=given.agent,
            queue=given.queue,
            disposition=given.disposition,
            note=given.note,
            data_json=None if given.data is None else msgspec.json.encode(given.data),
            **named,  # type: ignore[arg-type]
        )
        for name in ("start_time", "end_time", "update_time"):
            if (at_ms := getattr(given, name)) is not None:
                getattr(update, name).FromMilliseconds(at_ms)
        request = collector.RecordInteractionRequest(interaction=update)
        stored = (await self._ask(self._record, request, call.principal)).interaction
        recorded = RecordedInteraction(stored.interaction_id, milliseconds(stored.update_time), stored.site or None)
        return json_response(recorded)

    async def interactions(self, call: Call[InteractionsQuery, None]) -> Response:
        """Interactions by whom they are about, by agent and by time, newest first; without filters, all."""
        query = call.query
        named = {name: value for name in ("identity_id", "contact_id", "phone") if (value := getattr(query, name))}
        if len(named) > 1:
            raise Problem(400, "at most one of identityId, contactId, phone is allowed")
        request = history.ListInteractionsRequest(
            agent=query.agent, page_size=query.page_size, page_token=query.page_token, **named
        )
        if query.from_ms is not UNSET:
            request.scope.start_time.FromMilliseconds(query.from_ms)
        if query.to_ms is not UNSET:
            request.scope.end_time.FromMilliseconds(query.to_ms)
        response = await self._ask(self._history.ListInteractions, request, call.principal, _PARAMETERS)
        return json_response(resources.interactions(response))

    async def interaction(self, call: Call[NoQuery, None]) -> Response:
        """An interaction. Shows within about two seconds after it was reported."""
        request = history.GetInteractionRequest(interaction_id=call.path["interactionId"])
        found = await self._ask(self._history.GetInteraction, request, call.principal)
        return json_response(resources.interaction(found.interaction))

    async def of_visit(self, call: Call[InteractionsPageQuery, None]) -> Response:
        """The interactions about a visit, newest first."""
        visit_id = call.uuid("visitId", "visit")
        request = history.ListInteractionsRequest(
            visit_id=visit_id, page_size=call.query.page_size, page_token=call.query.page_token
        )
        response = await self._ask(self._history.ListInteractions, request, call.principal)
        return json_response(resources.interactions(response))
