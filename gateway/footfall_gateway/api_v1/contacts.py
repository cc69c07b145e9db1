"""Operations of contacts, persons and links, answered by the identity service. History adds the visits of a person."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import structlog
from footfall.history.v1.history_service_pb2 import ListInteractionsRequest
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from google.protobuf.field_mask_pb2 import FieldMask
from msgspec import UNSET, Meta
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import Audit, KeyScope, Principal
from footfall_gateway.backends import Backends
from footfall_gateway.history_api import Embedder, Identity, IdentityQuery
from footfall_gateway.history_api import identity as history_identity
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

_HASHES_PER_LINE = 100
_MAX_BATCH = 1_000
_WRITE_HEADERS = {
    "If-Match": "The `ETag` that was read: the contact is written only if it has not changed since. `*`: only if it "
    "exists. Without it, of two clients that write at the same time the later one overwrites the other.",
    "Idempotency-Key": "A UUID that the client makes for this write and repeats with it: a repetition of a write that "
    "has succeeded answers 200 also if the `ETag` no longer matches.",
}
_PUT_HEADERS = _WRITE_HEADERS | {"If-None-Match": "`*`: the contact is created, and not written if it exists."}
_ETAG = {"ETag": "Changes with the contact; for `If-Match`."}
_CHANGED = {412: "The contact is not as `If-Match` or `If-None-Match` requires."}
_CONTACT = {
    "firstName": "Dana",
    "lastName": "Oak",
    "title": "Ms.",
    "emailAddresses": ["dana@example.com"],
    "phoneNumbers": ["+1 202 555 0100"],
}
_PARAMETERS = {"request_id": "Idempotency-Key"}
_RENAME_PARAMETERS = {"from_identity_id": "identityId", "to_identity_id": "identityId"}
_MERGE_PARAMETERS = {"from_contact_id": "contactId", "into_contact_id": "contactId"}
_ENTITY_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_ANY = "*"

_log = structlog.get_logger()

_ContactAnswer = identity.UpsertContactResponse | identity.UpdateContactResponse | identity.GetContactResponse
_MAX_INTERACTIONS = 20
_WITHOUT_INTERACTIONS = {HTTPStatus.CONFLICT, HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.SERVICE_UNAVAILABLE}
"""Errors of a list of interactions with which a person is answered all the same."""


class LinksQuery(msgspec.Struct):
    """One page of links, renames or merges."""

    page_size: Annotated[int, Meta(description="Maximum number of items.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the previous response.")] = ""


class RenamesQuery(LinksQuery, rename={"identity_id": "identityId"}, kw_only=True):
    """One page of renames."""

    identity_id: Annotated[
        str,
        Meta(
            description="Only decisions about the names of the person that this identity belongs to.",
            extra_json_schema={"maxLength": 512},
        ),
    ] = ""


class MergesQuery(LinksQuery, rename={"contact_id": "contactId"}, kw_only=True):
    """One page of merges."""

    contact_id: Annotated[
        str,
        Meta(
            description="Only decisions about contacts that are one with this one.",
            extra_json_schema={"maxLength": 256},
        ),
    ] = ""


class ContactsQuery(msgspec.Struct):
    """Filters of contacts. A contact has to match all that are given."""

    email: Annotated[
        str,
        Meta(
            description="Only contacts with this e-mail address, regardless of case.",
            extra_json_schema={"maxLength": 254},
        ),
    ] = ""
    phone: Annotated[
        str,
        Meta(
            description="Only contacts with this telephone number, in any spelling; with `+` (`%2B`) and country code "
            "unless `IDENTITY_PHONE_REGION` is set.",
            extra_json_schema={"maxLength": 64},
        ),
    ] = ""
    name: Annotated[
        str,
        Meta(
            description="Only contacts with this name: each word begins a word of the first or last name, regardless "
            "of case and accents. `ozg` finds Özgür.",
            extra_json_schema={"maxLength": 256},
        ),
    ] = ""
    contact_ids: Annotated[
        list[str],
        Meta(
            description="Only these contacts. Repeat it for several contacts. One that was merged does not lead to the "
            "other one.",
            max_length=50,
        ),
    ] = msgspec.field(name="contactId", default_factory=list)
    page_size: Annotated[int, Meta(description="Maximum number of contacts.", ge=1, le=1_000)] = 50
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; all other parameters must be the same.")
    ] = ""


class WriteQuery(msgspec.Struct, kw_only=True):
    """How long to wait for the links of identities."""

    wait_ms: Annotated[
        Annotated[int, Meta(ge=0, le=60_000)] | None,
        Meta(
            description="How long to wait at most until the links that the change affects are decided "
            "(ms), `IDENTITY_MAX_LINK_WAIT_MS` at most. Left out: `IDENTITY_LINK_WAIT_MS`, and not for identities that "
            "share an attribute with more than 100 others. Links that are not decided by then follow in the background."
        ),
    ] = None


class PatchQuery(WriteQuery, kw_only=True):
    """How long to wait for the links of identities, and what to do if there is no such contact."""

    allow_missing: Annotated[
        bool, Meta(description="Create the contact, with the given values, if there is none; else the answer is 404.")
    ] = False


class PersonQuery(IdentityQuery, kw_only=True):
    """One page of a person's identities."""

    page_size: Annotated[int, Meta(description="Maximum number of identities.", ge=1, le=1_000)] = 1_000
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; all other parameters must be the same.")
    ] = ""


class ContactsApi:
    """The contact center's directory, and the links from identities to contacts."""

    def __init__(self, backends: Backends, audit: Audit) -> None:
        self._ask = backends.ask
        self._hashes_of = audit
        self._identity = backends.identity
        self._list_interactions = backends.history.ListInteractions
        self._embedder = Embedder(backends)

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        contact, link = "/contacts/{contactId}", "/identities/{identityId}/contact"
        given, made, manage = resources.ContactBody, resources.Contact, KeyScope.CONTACTS
        return [
            Operation("listContacts", "GET", "/contacts", self.contacts, ContactsQuery, resources.Contacts),
            Operation(
                "putContact",
                "PUT",
                contact,
                self.put,
                WriteQuery,
                made,
                given,
                manage,
                headers=_PUT_HEADERS,
                answer_headers=_ETAG,
                errors=_CHANGED,
                never={404},
                example=_CONTACT,
            ),
            Operation(
                "patchContact",
                "PATCH",
                contact,
                self.patch,
                PatchQuery,
                made,
                resources.ContactPatch,
                manage,
                body_types=("application/merge-patch+json", "application/json"),
                headers=_WRITE_HEADERS,
                answer_headers=_ETAG,
                errors=_CHANGED,
                example={"title": "Dr.", "phoneNumbers": None},
            ),
            Operation("getContact", "GET", contact, self.get, NoQuery, made, answer_headers=_ETAG),
            Operation(
                "deleteContact",
                "DELETE",
                contact,
                self.delete,
                WriteQuery,
                required_scope=manage,
                headers={"If-Match": _WRITE_HEADERS["If-Match"]},
                errors=_CHANGED,
            ),
            *self._many(),
            Operation("getPerson", "GET", f"{contact}/person", self.person, PersonQuery, resources.Person),
            Operation(
                "linkContact",
                "PUT",
                link,
                self.link,
                NoQuery,
                resources.Link,
                resources.LinkBody,
                manage,
                example={"contactId": "C-1001"},
            ),
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
            *self._redirects(),
        ]

    def _redirects(self) -> list[Operation[Any, Any]]:
        rename, merge = "/identities/{identityId}/rename", "/contacts/{contactId}/merge"
        one, many, manage = resources.Redirect, resources.Redirects, KeyScope.CONTACTS
        refused = {
            409: "The old name leads to another one already, or the other one leads to it, or too many names "
            "(`IDENTITY_MAX_NAMES`) would mean the same."
        }
        never = {409: "The name never led to another one."}
        return [
            Operation(
                "renameIdentity",
                "PUT",
                rename,
                self.rename,
                NoQuery,
                one,
                resources.RenameBody,
                manage,
                errors=refused,
                never={404},
                example={"identityId": "dana.oak@example.com"},
            ),
            Operation(
                "undoRename",
                "DELETE",
                rename,
                self.undo_rename,
                NoQuery,
                one,
                required_scope=manage,
                errors=never,
                never={404},
            ),
            Operation("listRenames", "GET", "/renames", self.renames, RenamesQuery, many),
            Operation(
                "mergeContacts",
                "PUT",
                merge,
                self.merge,
                NoQuery,
                one,
                resources.MergeBody,
                manage,
                errors=refused,
                example={"contactId": "C-1002"},
            ),
            Operation(
                "undoMerge",
                "DELETE",
                merge,
                self.undo_merge,
                NoQuery,
                one,
                required_scope=manage,
                errors=never,
                never={404},
            ),
            Operation("listMerges", "GET", "/merges", self.merges, MergesQuery, many),
        ]

    def _many(self) -> list[Operation[Any, Any]]:
        manage, outcomes = KeyScope.CONTACTS, resources.ContactOutcomes
        return [
            Operation(
                "writeContacts",
                "POST",
                "/contacts:batch",
                self.write_many,
                NoQuery,
                outcomes,
                resources.ContactsBatch,
                manage,
                errors={409: "A later synchronization has begun."},
                example={"contacts": [{"contactId": "C-1001", **_CONTACT}, {"contactId": "C-1002"}], "generation": 1},
            ),
            Operation(
                "deleteContacts",
                "POST",
                "/contacts:batchDelete",
                self.delete_many,
                NoQuery,
                outcomes,
                resources.ContactsToDelete,
                manage,
                example={"contactIds": ["C-1002"]},
            ),
            Operation(
                "finishContactSync",
                "POST",
                "/contacts:finishSync",
                self.finish_sync,
                NoQuery,
                resources.SyncEnded,
                resources.SyncEnd,
                manage,
                errors={
                    409: "Too many contacts would be deleted; or no contact was sent in this generation; or a later "
                    "synchronization has begun."
                },
                example={"generation": 1, "maxDeletedPercent": 10, "validateOnly": True},
            ),
        ]

    async def contacts(self, call: Call[ContactsQuery, None]) -> Response:
        """Find contacts by id, e-mail address, telephone number or name; without filters, all contacts, by id.

        A page may be short, or even empty, although more contacts follow: read on until `nextPageToken` is null.
        """
        request = identity.ListContactsRequest(**msgspec.structs.asdict(call.query))
        response = await self._ask(self._identity.ListContacts, request, call.principal)
        found = [resources.contact(one) for one in response.contacts]
        return json_response(resources.Contacts(found, response.next_page_token or None))

    async def put(self, call: Call[WriteQuery, resources.ContactBody]) -> Response:
        """Create or replace a contact. Links are evaluated again, in the background if there are many."""
        given = contact_pb2.Contact(
            contact_id=call.path["contactId"], etag=_if_match(call), **msgspec.structs.asdict(call.body)
        )
        request = identity.UpsertContactRequest(
            contact=given, create_only=_creates_only(call), request_id=_request_id(call), wait_ms=call.query.wait_ms
        )
        response = await self._ask(self._identity.UpsertContact, request, call.principal, _PARAMETERS)
        return _contact_response(response)

    async def patch(self, call: Call[PatchQuery, resources.ContactPatch]) -> Response:
        """Change some values of a contact. Links are evaluated again, in the background if there are many."""
        given = {name: value for name, value in msgspec.structs.asdict(call.body).items() if value is not UNSET}
        request = identity.UpdateContactRequest(
            contact=contact_pb2.Contact(
                contact_id=call.path["contactId"],
                etag=_if_match(call),
                **{name: value for name, value in given.items() if value is not None},
            ),
            # A mask without a path would name the fields that are given; this one names none that can be written.
            update_mask=FieldMask(paths=[*given] or ["contact_id"]),
            allow_missing=call.query.allow_missing,
            request_id=_request_id(call),
            wait_ms=call.query.wait_ms,
        )
        response = await self._ask(self._identity.UpdateContact, request, call.principal, _PARAMETERS)
        return _contact_response(response)

    async def get(self, call: Call[NoQuery, None]) -> Response:
        """A contact."""
        request = identity.GetContactRequest(contact_id=call.path["contactId"])
        response = await self._ask(self._identity.GetContact, request, call.principal)
        return _contact_response(response)

    async def delete(self, call: Call[WriteQuery, None]) -> Response:
        """Remove a contact. The links of its identities are evaluated again, in the background if there are many."""
        request = identity.DeleteContactRequest(
            contact_id=call.path["contactId"], etag=_if_match(call), wait_ms=call.query.wait_ms
        )
        await self._ask(self._identity.DeleteContact, request, call.principal)
        return Response(status_code=204)

    async def write_many(self, call: Call[NoQuery, resources.ContactsBatch]) -> Response:
        """Create or replace up to 1,000 contacts, each as `putContact` does, with an outcome for each.

        Contacts that are invalid or have changed are not written; all others are. With `generation`, the request is
        part of a synchronization: after its last batch, `finishContactSync` deletes the contacts that were not sent.
        """
        contacts = [contact_pb2.Contact(**msgspec.structs.asdict(one)) for one in call.body.contacts]
        self._audit(call, "writeContacts", [one.contact_id for one in contacts])
        request = identity.BatchUpsertContactsRequest(contacts=contacts, generation=call.body.generation)
        response = await self._ask(self._identity.BatchUpsertContacts, request, call.principal)
        return json_response(resources.contact_outcomes(response.outcomes))

    async def delete_many(self, call: Call[NoQuery, resources.ContactsToDelete]) -> Response:
        """Remove up to 1,000 contacts, each as `deleteContact` does, with an outcome for each."""
        self._audit(call, "deleteContacts", call.body.contact_ids)
        request = identity.BatchDeleteContactsRequest(contact_ids=call.body.contact_ids)
        response = await self._ask(self._identity.BatchDeleteContacts, request, call.principal)
        return json_response(resources.contact_outcomes(response.outcomes))

    async def finish_sync(self, call: Call[NoQuery, resources.SyncEnd]) -> Response:
        """End a synchronization: remove contacts that were not sent in it and have not been changed since it began.

        At most 1,000 contacts are removed by one request: repeat it until `remainingCount` is 0.
        """
        request = identity.FinishContactSyncRequest(**msgspec.structs.asdict(call.body))
        response = await self._ask(self._identity.FinishContactSync, request, call.principal)
        return json_response(resources.SyncEnded(response.deleted_count, response.remaining_count, response.kept_count))

    def _audit(self, call: Call[Any, Any], operation: str, contact_ids: Sequence[str]) -> None:
        """Log the hashes of the contacts of a batch, which stand in no path."""
        if len(contact_ids) > _MAX_BATCH:  # identity refuses the batch without looking at it
            return
        for start in range(0, len(contact_ids), _HASHES_PER_LINE):
            hashes = self._hashes_of.contact_hashes(contact_ids[start : start + _HASHES_PER_LINE])
            if hashes:
                _log.info(
                    "contacts of a batch",
                    operation=operation,
                    client=call.principal.name,
                    key=call.principal.key_id,
                    contact_hashes=hashes,
                )

    async def person(self, call: Call[PersonQuery, None]) -> Response:
        """The person: a contact, the identities linked to it with their visits, and its newest interactions.

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
            resources.contact(response.contact, redirected_from=response.redirected_from),
            list(identities.values()),
            request.page_token or None,
            None if query.page_token else await self._interactions(call.path["contactId"], call.principal),
        )
        return json_response(person)

    async def _interactions(self, contact_id: str, principal: Principal) -> list[resources.Interaction] | None:
        """The newest interactions of a person; None if the contact has too many identities, or history cannot say."""
        request = ListInteractionsRequest(contact_id=contact_id, page_size=_MAX_INTERACTIONS)
        try:
            response = await self._ask(self._list_interactions, request, principal)
        except Problem as problem:
            if problem.status in _WITHOUT_INTERACTIONS:
                return None
            raise
        return resources.interactions(response).interactions

    async def link(self, call: Call[NoQuery, resources.LinkBody]) -> Response:
        """Link an identity to a contact by hand. Only another decision by hand changes the link."""
        request = identity.LinkContactRequest(
            identity_id=call.path["identityId"],
            contact_id=call.body.contact_id,
            actor=resources.actor(call.principal.name, call.body.actor),
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

    async def rename(self, call: Call[NoQuery, resources.RenameBody]) -> Response:
        """Let an identity lead to another one: a customer number or an e-mail address has changed.

        Both are names of one person from then on, whenever their events arrive, and are linked to the same contact.
        Events keep the name that was sent. Neither name need be known.
        """
        request = identity.RenameIdentityRequest(
            from_identity_id=call.path["identityId"],
            to_identity_id=call.body.identity_id,
            actor=resources.actor(call.principal.name, call.body.actor),
        )
        response = await self._ask(self._identity.RenameIdentity, request, call.principal, _RENAME_PARAMETERS)
        return json_response(resources.redirect(response.rename))

    async def undo_rename(self, call: Call[NoQuery, None]) -> Response:
        """Undo a rename: links are then as if the identity had never been renamed."""
        request = identity.UndoRenameRequest(from_identity_id=call.path["identityId"], actor=call.principal.name)
        response = await self._ask(self._identity.UndoRename, request, call.principal, _RENAME_PARAMETERS)
        return json_response(resources.redirect(response.rename))

    async def renames(self, call: Call[RenamesQuery, None]) -> Response:
        """Identities that were renamed, by the old name, with all decisions, also those that are undone."""
        request = identity.ListRenamesRequest(**msgspec.structs.asdict(call.query))
        response = await self._ask(self._identity.ListRenames, request, call.principal)
        found = [resources.redirect(one) for one in response.renames]
        return json_response(resources.Redirects(found, response.next_page_token or None))

    async def merge(self, call: Call[NoQuery, resources.MergeBody]) -> Response:
        """Let a contact lead to another one: the contact center has merged the two.

        Links to the first become links to the second. Neither contact is changed, and the first may be deleted.
        """
        request = identity.MergeContactsRequest(
            from_contact_id=call.path["contactId"],
            into_contact_id=call.body.contact_id,
            actor=resources.actor(call.principal.name, call.body.actor),
        )
        response = await self._ask(self._identity.MergeContacts, request, call.principal, _MERGE_PARAMETERS)
        return json_response(resources.redirect(response.merge))

    async def undo_merge(self, call: Call[NoQuery, None]) -> Response:
        """Undo a merge: links are then as if the contacts had never been merged."""
        request = identity.UndoMergeRequest(from_contact_id=call.path["contactId"], actor=call.principal.name)
        response = await self._ask(self._identity.UndoMerge, request, call.principal, _MERGE_PARAMETERS)
        return json_response(resources.redirect(response.merge))

    async def merges(self, call: Call[MergesQuery, None]) -> Response:
        """Contacts that were merged into others, with all decisions, also those that are undone."""
        request = identity.ListMergesRequest(**msgspec.structs.asdict(call.query))
        response = await self._ask(self._identity.ListMerges, request, call.principal)
        found = [resources.redirect(one) for one in response.merges]
        return json_response(resources.Redirects(found, response.next_page_token or None))


def _contact_response(answer: _ContactAnswer) -> Response:
    redirected_from = answer.redirected_from if isinstance(answer, identity.GetContactResponse) else ""
    contact = resources.contact(answer.contact, answer.pending_identity_count, redirected_from)
    return json_response(contact, etag=f'"{contact.etag}"')


def _if_match(call: Call[Any, Any]) -> str:
    """The etag in `If-Match`, or `*`; empty without one.

    A proxy that compresses answers makes the entity tag weak (`W/`).
    """
    given = call.headers.get("if-match", "").strip()
    if given in {"", _ANY}:
        return given
    found = _ENTITY_TAG.fullmatch(given)
    if not found:
        raise Problem(400, "If-Match: must be one ETag of the contact, or *")
    return given if found[1] in {"", _ANY} else found[1]  # no contact has the ETag "*" or ""


def _creates_only(call: Call[Any, Any]) -> bool:
    """Whether the contact must not exist."""
    given = call.headers.get("if-none-match", "").strip()
    if given not in {"", _ANY}:
        raise Problem(400, "If-None-Match: must be *, or left out")
    return given == _ANY


def _request_id(call: Call[Any, Any]) -> str:
    return call.headers.get("idempotency-key", "")
