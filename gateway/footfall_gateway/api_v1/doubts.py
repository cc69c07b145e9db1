"""The operation about links that a person should look at, answered by the identity service."""

from typing import Annotated, Any, Literal

import msgspec
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.backends import Backends
from footfall_gateway.fields import ContactId, IdentityId, NextPageToken, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, Operation, json_response

Doubt = Literal["ambiguous", "recognized_only", "by_name"]
_DOUBTS: dict[Doubt, contact_pb2.LinkDoubt.ValueType] = {
    "ambiguous": contact_pb2.LINK_DOUBT_AMBIGUOUS,
    "recognized_only": contact_pb2.LINK_DOUBT_RECOGNIZED_ONLY,
    "by_name": contact_pb2.LINK_DOUBT_BY_NAME,
}


class DoubtsQuery(msgspec.Struct):
    """One page of the identities with a doubt."""

    doubt: Annotated[
        Doubt,
        Meta(
            description="`ambiguous`: several contacts match. `recognized_only`: a UserInfo names the e-mail address "
            "of contacts, which are only candidates. `by_name`: linked, by first and last name only."
        ),
    ]
    page_size: Annotated[int, Meta(description="Maximum number of identities.", ge=1, le=1_000)] = 50
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; `doubt` must be the same.")
    ] = ""


class DoubtfulLink(msgspec.Struct, rename="camel"):
    """An identity whose contact a person should look at."""

    identity_id: IdentityId
    contact_id: Annotated[ContactId | None, Meta(description="The contact that it is linked to; null: none.")]
    candidate_count: Annotated[
        int, Meta(description="How many contacts match without a link, at most 10,000; 0 with `by_name`.", ge=0)
    ]
    last_event_time: Annotated[Time, Meta(description="When an event named it last (ms).")]


class DoubtfulLinks(msgspec.Struct, rename="camel"):
    """Identities with a doubt, in the order of their ids."""

    identities: Annotated[list[DoubtfulLink], Meta(description="One page of identities.")]
    count: Annotated[int | None, Meta(description="How many there are, at most 1,000; null on pages after the first.")]
    next_page_token: NextPageToken | None


class DoubtsApi:
    """Links in doubt. Their evidence may be of any site, so keys of some sites see none of it."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [Operation("listDoubtfulLinks", "GET", "/doubtful-links", self.links, DoubtsQuery, DoubtfulLinks)]

    async def links(self, call: Call[DoubtsQuery, None]) -> Response:
        """Identities whose contact a person should look at: several match, one only looks alike, or by name only.

        The candidates are in `candidateContactIds` of the first of an identity's links. Decide by linking or unlinking.
        """
        call.principal.require_all_sites()
        query = call.query
        request = identity.ListIdentitiesRequest(
            link_doubt=_DOUBTS[query.doubt], page_size=query.page_size, page_token=query.page_token
        )
        response = await self._ask(self._identity.ListIdentities, request, call.principal)
        found = [
            DoubtfulLink(
                one.identity_id, one.contact_id or None, one.contact_candidate_count, milliseconds(one.update_time)
            )
            for one in response.identities
        ]
        count = None if query.page_token else response.doubt_count
        return json_response(DoubtfulLinks(found, count, response.next_page_token or None))
