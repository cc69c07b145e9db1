"""The context of a customer: what a contact center shows when a call or chat comes in, answered by history."""

from typing import Annotated, Any, Final, Literal

import msgspec
from footfall.history.v1 import customer_context_pb2 as context_pb
from footfall.history.v1 import history_service_pb2 as history
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.backends import Backends
from footfall_gateway.fields import IdentityId, Time
from footfall_gateway.history_api import Event, Page, event, milliseconds, page
from footfall_gateway.http import Call, Operation, json_response
from footfall_gateway.problem import Problem

Status = Literal["linked", "ambiguous", "unlinked", "none", "unknown"]
Part = Literal["contact", "identities", "visits", "pages", "events", "interactions"]

_STATUSES: Final[dict[int, Status]] = {
    context_pb.CONTEXT_STATUS_LINKED: "linked",
    context_pb.CONTEXT_STATUS_AMBIGUOUS: "ambiguous",
    context_pb.CONTEXT_STATUS_UNLINKED: "unlinked",
    context_pb.CONTEXT_STATUS_NOT_FOUND: "none",
}
_PARTS: Final[dict[int, Part]] = {
    context_pb.CONTEXT_PART_CONTACT: "contact",
    context_pb.CONTEXT_PART_IDENTITIES: "identities",
    context_pb.CONTEXT_PART_VISITS: "visits",
    context_pb.CONTEXT_PART_PAGES: "pages",
    context_pb.CONTEXT_PART_EVENTS: "events",
    context_pb.CONTEXT_PART_INTERACTIONS: "interactions",
}
_BEFORE = Meta(description="Whether it happened while the visitor was anonymous, before the visit named this person.")


class ContextQuery(msgspec.Struct, rename="camel"):
    """By what the customer is known. Exactly one parameter is required."""

    phone: Annotated[
        str,
        Meta(
            description="A telephone number, in any spelling; with `+` (`%2B`) and country code unless "
            "`IDENTITY_PHONE_REGION` is set.",
            extra_json_schema={"maxLength": 64},
        ),
    ] = ""
    email: Annotated[str, Meta(description="An e-mail address, in any case.", extra_json_schema={"maxLength": 254})] = (
        ""
    )
    contact_id: Annotated[str, Meta(description="A contact.", extra_json_schema={"maxLength": 256})] = ""
    identity_id: Annotated[str, Meta(description="An identity.", extra_json_schema={"maxLength": 512})] = ""
    visit_id: Annotated[str, Meta(description="A visit.", extra_json_schema={"maxLength": 36})] = ""
    code: Annotated[
        str,
        Meta(
            description="A code that a visitor has read from the page: 6 digits. The first key or user that gives it "
            "uses it: then it finds the visit for no other. A code that is used, expired or of another website finds "
            "nothing.",
            extra_json_schema={"pattern": "^[0-9]{6}$"},
        ),
    ] = ""


class ContextIdentity(msgspec.Struct, rename="camel"):
    """An identity of the person."""

    identity_id: IdentityId
    name: Annotated[str, Meta(description="The name; empty: not known.")]
    location: Annotated[str, Meta(description="The location; empty: not known.")]
    link: Annotated[
        resources.Link | None,
        Meta(description="The decision in force about its contact, of the five identities seen last; null: none."),
    ]
    shared: Annotated[
        bool,
        Meta(
            description="Whether it was used on more than `IDENTITY_MAX_DEVICES_PER_DAY` devices on a day, so that it "
            "may stand for several people. Always false for keys of sites."
        ),
    ]


class ContextVisit(msgspec.Struct, rename="camel"):
    """A visit that goes on now."""

    visitor: Annotated[resources.Visitor, Meta(description="The live state, with the page that the visitor is on.")]
    start_time: Annotated[Time, Meta(description="When the first event of the visit happened (ms).")]
    page_start_time: Annotated[
        Time | None, Meta(description="Since when the visitor is on that page (ms); null: not known (yet).")
    ]


class ContextPage(msgspec.Struct, rename="camel"):
    """A page entry of the person."""

    page: Annotated[Page, Meta(description="The page entry.")]
    before_sign_in: Annotated[bool, _BEFORE]


class ContextEvent(msgspec.Struct, rename="camel"):
    """A business event of the person."""

    event: Annotated[Event, Meta(description="The event.")]
    before_sign_in: Annotated[bool, _BEFORE]


class CustomerContext(msgspec.Struct, rename="camel"):
    """What is known of a customer."""

    status: Annotated[
        Status,
        Meta(
            description="`linked`: one contact. `ambiguous`: several, in `candidates`. `unlinked`: the identity or "
            "visit is known, without a contact. `none`: nothing is known. `unknown`: identity does not answer."
        ),
    ]
    rule: Annotated[resources.LinkRule | None, Meta(description="What matched; null for `contactId` and no match.")]
    assurance: Annotated[
        resources.Assurance | None,
        Meta(
            description="Whether a token proves what the link of the identity rests on. null for `phone`, `email` and "
            "`contactId`: that a caller knows a telephone number proves nothing."
        ),
    ]
    explanation: Annotated[str, Meta(description="The same as a sentence in English. For people.")]
    contact: Annotated[resources.Contact | None, Meta(description="The contact; null unless `linked`.")]
    candidates: Annotated[
        list[resources.Contact],
        Meta(description="The contacts that match, when `ambiguous`.", extra_json_schema={"maxItems": 10}),
    ]
    identities: Annotated[
        list[ContextIdentity],
        Meta(description="The identities of the person.", extra_json_schema={"maxItems": 20}),
    ]
    visits: Annotated[
        list[ContextVisit],
        Meta(description="The visits that go on now, latest activity first.", extra_json_schema={"maxItems": 10}),
    ]
    pages: Annotated[
        list[ContextPage],
        Meta(
            description="The newest page entries of the last 24 hours, newest first.",
            extra_json_schema={"maxItems": 10},
        ),
    ]
    events: Annotated[
        list[ContextEvent],
        Meta(
            description="The newest business events of the last 24 hours, newest first.",
            extra_json_schema={"maxItems": 20},
        ),
    ]
    interactions: Annotated[
        list[resources.Interaction],
        Meta(
            description="The newest interactions of the person, newest first, with `data` left empty.",
            extra_json_schema={"maxItems": 50},
        ),
    ]
    current_identity_id: Annotated[
        IdentityId | None,
        Meta(description="The current name of the identity of the request or of its visit; null: none is named."),
    ]
    redirected_from: Annotated[
        str | None,
        Meta(
            description="The identity or contact of the request or of its visit, if it leads to another one; else null."
        ),
    ]
    truncated: Annotated[
        bool,
        Meta(
            description="Whether contacts, identities, pages, events or interactions were left out because of limits "
            "of size."
        ),
    ]
    unavailable_parts: Annotated[
        list[Part], Meta(description="Parts that did not answer in time: what is there of them is not complete.")
    ]


class ContextApi:
    """The context of a customer."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._get = backends.history.GetCustomerContext

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation(
                "getContext",
                "GET",
                "/context",
                self.context,
                ContextQuery,
                CustomerContext,
                errors={429: "Too many wrong codes of this key or user, or failed sign-ins from this address."},
            ),
        ]

    async def context(self, call: Call[ContextQuery, None]) -> Response:
        """The contact, identities, live visits, newest pages, business events and interactions of a customer.

        Exactly one parameter is required. An unknown customer has empty lists. Pages and events from before the
        sign-in of the same visit are included and marked.
        """
        given = {name: value for name, value in msgspec.structs.asdict(call.query).items() if value}
        if len(given) != 1:
            raise Problem(400, "exactly one of phone, email, contactId, identityId, visitId, code is required")
        request = history.GetCustomerContextRequest(**given, actor=call.principal.name if call.query.code else "")
        return json_response(_context(await self._ask(self._get, request, call.principal)))


def _context(found: history.GetCustomerContextResponse) -> CustomerContext:
    return CustomerContext(
        status=_STATUSES.get(found.status, "unknown"),
        rule=resources.link_rule(found.rule),
        assurance=resources.assurance(found.assurance),
        explanation=found.explanation,
        contact=resources.contact(found.contact) if found.HasField("contact") else None,
        candidates=[resources.contact(one) for one in found.candidates],
        identities=[_identity(one) for one in found.identities],
        visits=[_visit(one) for one in found.visits],
        pages=[ContextPage(page(one.page), one.before_sign_in) for one in found.pages],
        events=[ContextEvent(event(one.event), one.before_sign_in) for one in found.events],
        interactions=[resources.interaction(one) for one in found.interactions],
        current_identity_id=found.current_identity_id or None,
        redirected_from=found.redirected_from or None,
        truncated=found.truncated,
        unavailable_parts=[_PARTS[part] for part in found.unavailable_parts if part in _PARTS],
    )


def _identity(found: context_pb.ContextIdentity) -> ContextIdentity:
    identity = found.identity
    link = resources.link(found.link) if found.HasField("link") else None
    return ContextIdentity(identity.identity_id, identity.name, identity.location, link, identity.shared)


def _visit(found: context_pb.ContextVisit) -> ContextVisit:
    since = milliseconds(found.page_start_time) if found.HasField("page_start_time") else None
    return ContextVisit(resources.visitor(found.visitor), milliseconds(found.visitor.start_time), since)
