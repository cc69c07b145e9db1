"""Operations of contacts, persons and links, answered by the identity service. History adds the visits of a person."""

from typing import Annotated, Any

import msgspec
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import KeyScope
from footfall_gateway.backends import Backends
from footfall_gateway.history_api import Embedder, Identity, IdentityQuery
from footfall_gateway.history_api import identity as history_identity
from footfall_gateway.http import Call, NoQuery, Operation, json_response

_MAX_ACTOR_LENGTH = 256


class LinksQuery(msgspec.Struct):
    """One page of links."""

    page_size: Annotated[int, Meta(description="Maximum number of links.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the previous response.")] = ""


class PersonQuery(IdentityQuery, kw_only=True):
    """One page of a person's identities."""

    page_size: Annotated[int, Meta(description="Maximum number of identities.", ge=1, le=1_000)] = 1_000
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; all other parameters must be the same.")
    ] = ""


class ContactsApi:
    """The contact center's directory, and the links from identities to contacts."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity
        self._embedder = Embedder(backends)

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        contact, link = "/contacts/{contactId}", "/identities/{identityId}/contact"
        given, made, manage = resources.ContactBody, resources.Contact, KeyScope.CONTACTS
        return [
            Operation("putContact", "PUT", contact, self.put, NoQuery, made, given, manage, never={404}),
            Operation("getContact", "GET", contact, self.get, NoQuery, made),
            Operation("deleteContact", "DELETE", contact, self.delete, NoQuery, required_scope=manage),
            Operation("getPerson", "GET", f"{contact}/person", self.person, PersonQuery, resources.Person),
            Operation("linkContact", "PUT", link, self.link, NoQuery, resources.Link, resources.LinkBody, manage),
            Operation(
                "unlinkContact",
                "DELETE",
                link,
                self.unlink,
                NoQuery,
                required_scope=manage,
                errors={409: "The identity is not linked to a contact."},
                never={404},
            ),
            Operation("listLinks", "GET", "/identities/{identityId}/links", self.links, LinksQuery, resources.Links),
        ]

    async def put(self, call: Call[NoQuery, resources.ContactBody]) -> Response:
        """Create or replace a contact. Links are evaluated again."""
        given = contact_pb2.Contact(contact_id=call.path["contactId"], **msgspec.structs.asdict(call.body))
        request = identity.UpsertContactRequest(contact=given)
        response = await self._ask(self._identity.UpsertContact, request, call.principal)
        return json_response(resources.contact(response.contact))

    async def get(self, call: Call[NoQuery, None]) -> Response:
        """A contact."""
        request = identity.GetContactRequest(contact_id=call.path["contactId"])
        response = await self._ask(self._identity.GetContact, request, call.principal)
        return json_response(resources.contact(response.contact))

    async def delete(self, call: Call[NoQuery, None]) -> Response:
        """Remove a contact. The links of its identities are evaluated again."""
        request = identity.DeleteContactRequest(contact_id=call.path["contactId"])
        await self._ask(self._identity.DeleteContact, request, call.principal)
        return Response(status_code=204)

    async def person(self, call: Call[PersonQuery, None]) -> Response:
        """The person: a contact, the identities linked to it, and their visits.

        With more than `page_size` identities, `nextPageToken` leads to the next ones.
        """
        query = call.query
        request = identity.GetPersonRequest(contact_id=call.path["contactId"], page_token=query.page_token)
        identities: dict[str, Identity] = {}
        while True:  # identity returns fewer at a time when their profiles are large
            request.page_size = query.page_size - len(identities)
            response = await self._ask(self._identity.GetPerson, request, call.principal)
            identities |= {found.identity_id: history_identity(found) for found in response.identities}
            request.page_token = response.next_page_token
            if not request.page_token or len(identities) >= query.page_size:
                break
        site = call.principal.site_filter(query.site)
        await self._embedder.embed("identity", identities, {"visits": True}, site, call.principal)
        person = resources.Person(
            resources.contact(response.contact), list(identities.values()), request.page_token or None
        )
        return json_response(person)

    async def link(self, call: Call[NoQuery, resources.LinkBody]) -> Response:
        """Link an identity to a contact by hand. Only another decision by hand changes the link."""
        request = identity.LinkContactRequest(
            identity_id=call.path["identityId"], contact_id=call.body.contact_id, actor=_actor(call, call.body.actor)
        )
        response = await self._ask(self._identity.LinkContact, request, call.principal)
        return json_response(resources.link(response.link))

    async def unlink(self, call: Call[NoQuery, None]) -> Response:
        """Unlink an identity by hand. Rules do not link it to that contact again."""
        request = identity.UnlinkContactRequest(identity_id=call.path["identityId"], actor=call.principal.name)
        await self._ask(self._identity.UnlinkContact, request, call.principal)
        return Response(status_code=204)

    async def links(self, call: Call[LinksQuery, None]) -> Response:
        """The link decisions of an identity: who or which rule made each, and the candidates of an ambiguous one.

        Of an identity at most 1,000 decisions are kept: each further one removes the oldest decision of a rule.
        """
        request = identity.ListContactLinksRequest(
            identity_id=call.path["identityId"], page_size=call.query.page_size, page_token=call.query.page_token
        )
        response = await self._ask(self._identity.ListContactLinks, request, call.principal)
        found = [resources.link(made) for made in response.links]
        return json_response(resources.Links(found, response.next_page_token or None))


def _actor(call: Call[Any, Any], given: str) -> str:
    """The actor of a decision: the name of the key, which is authenticated, and the person that the client names."""
    return (f"{call.principal.name}/{given}" if given else call.principal.name)[:_MAX_ACTOR_LENGTH]
