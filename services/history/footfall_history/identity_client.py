"""Client of the identity service: the only module of history that calls another service."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import grpc
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2 import (
    BatchGetIdentitiesRequest,
    BatchGetNamesRequest,
    CountLinksRequest,
    CountLinksResponse,
    GetPersonRequest,
    ImportIdentitiesRequest,
    JudgeLinksRequest,
    JudgeLinksResponse,
)
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded, open_channel, remaining
from footfall_servicekit.errors import RequestError, details_of
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.tls import ClientTls

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]

_RETRY_MS: Final = 1_000
_IMPORT_TIMEOUT_S: Final = 30.0
_BACKGROUND_TIMEOUT_S: Final = 10.0


class Person(NamedTuple):
    """A contact: the identities linked to it, its telephone numbers as given, and the ids of what is merged into it."""

    identity_ids: list[str]
    phone_numbers: list[str]
    contact_ids: list[str]


class PersonNames(NamedTuple):
    """The names of a person. `is_complete`: identity has answered; otherwise only the name that was asked for."""

    identity_ids: list[str]
    is_complete: bool = True


class IdentityClient:
    """The identity service. Create it in the running event loop."""

    def __init__(
        self, target: str, timeout_ms: int, tls: ClientTls | None = None, max_identities_per_contact: int = 50
    ) -> None:
        self._channel = open_channel(target, tls)
        self.stub = IdentityServiceStub(self._channel)
        """The methods, for `ask`."""
        self._timeout_s = timeout_ms / 1000
        self._max_identities = max_identities_per_contact
        self._failed = FailureLog("identity does not answer; the response has ids only", "service")
        self._count_failed = FailureLog("identity does not answer; the scorecards have no links", "service")
        self._names_failed = FailureLog("identity does not answer; only the name of the request is listed", "service")

    async def get(
        self, ids: Sequence[str], context: "grpc.aio.ServicerContext[Any, Any]", sites: Sequence[str] = ()
    ) -> tuple[dict[str, Identity], int]:
        """The identities that the service knows, by id, and the number of leading `ids` that this answer covers.

        `ids`: at most 1,000. The answer covers fewer when they do not fit into one message. It is empty for all of them
        when the service does not answer.
        """
        if not ids:
            return {}, 0
        try:
            answer = await self.stub.BatchGetIdentities(
                BatchGetIdentitiesRequest(identity_ids=ids, sites=sites),
                timeout=remaining(context, self._timeout_s),
                metadata=forwarded(),
            )
        except grpc.aio.AioRpcError as error:
            self._failed.failed("identity", code=error.code().name)
            return {}, len(ids)
        self._failed.worked("identity")
        known = {identity.identity_id: identity for identity in answer.identities}
        return known, len(ids) - len(answer.unread_identity_ids)

    async def names(self, identity_id: str, context: Context, sites: Sequence[str] = ()) -> PersonNames:
        """All names of the person whom a name means. Raises RequestError for a field that the service refuses."""
        request = BatchGetNamesRequest(identity_ids=[identity_id], sites=sites)
        try:
            answer = await self.ask(self.stub.BatchGetNames, request, context)
        except ConnectionError as error:
            self._names_failed.failed("identity", error=str(error))
            return PersonNames([identity_id], is_complete=False)
        self._names_failed.worked("identity")
        return PersonNames([*answer.names[0].identity_ids] if answer and answer.names else [identity_id])

    async def ids_of_contact(self, contact_id: str, context: Context, sites: Sequence[str] = ()) -> list[str]:
        """The ids of the identities linked to a contact. Raises RequestError as `person`."""
        return (await self.person(contact_id, context, sites)).identity_ids

    async def person(
        self, contact_id: str, context: Context, sites: Sequence[str] = (), *, max_identities: int | None = None
    ) -> Person:
        """A contact with the identities linked to it. `max_identities`: the limit, by default that of the settings.

        Raises RequestError when there is no such contact, when it has more identities than the limit, or when the
        service does not answer.
        """
        limit = max_identities or self._max_identities
        request = GetPersonRequest(contact_id=contact_id, page_size=limit, sites=sites)
        ids: list[str] = []
        while True:
            try:
                answer = await self.ask(self.stub.GetPerson, request, context)
            except ConnectionError as error:
                message = "the identity service does not answer; try again"
                raise RequestError.unavailable(message, _RETRY_MS, repeats=False) from error
            if answer is None:
                raise RequestError.not_found("Contact", contact_id)
            ids += [identity.identity_id for identity in answer.identities]
            request.page_token = answer.next_page_token
            if len(ids) > limit or (request.page_token and len(ids) == limit):
                message = f"this contact has more than {limit} identities; list by identity"
                raise RequestError.failed_precondition("TOO_MANY_ITEMS", message)
            if not request.page_token:
                contact_ids = {contact_id, answer.contact.contact_id, *answer.merged_contact_ids}
                return Person(ids, [*answer.contact.phone_numbers], sorted(contact_ids))

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        context: Context,
        timeout_s: float | None = None,
    ) -> Answer | None:
        """The answer of a method of `stub`; None for NOT_FOUND. `timeout_s`: instead of the setting.

        Raises RequestError for a field that the service refuses and for too many wrong codes, and ConnectionError when
        it does not answer.
        """
        try:
            timeout_s = remaining(context, self._timeout_s if timeout_s is None else timeout_s)
            return await method(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            details = details_of(error)
            if details.code is grpc.StatusCode.NOT_FOUND:
                return None
            if details.violations:
                raise RequestError.invalid_fields(details.violations) from error
            if details.reason == "TOO_MANY_WRONG_CODES":
                raise RequestError.exhausted(details.message, details.retry_ms or _RETRY_MS, details.reason) from error
            raise ConnectionError(f"identity answers {details.code.name}") from error

    async def count_links(self, identity_ids: Sequence[str]) -> CountLinksResponse | None:
        """How these identities, at most 1,000, are linked to contacts; None when the service does not answer."""
        try:
            answer = await self._background(self.stub.CountLinks, CountLinksRequest(identity_ids=identity_ids))
        except ConnectionError as error:
            self._count_failed.failed("identity", error=str(error))
            return None
        self._count_failed.worked("identity")
        return answer

    async def names_of(self, identity_ids: Sequence[str]) -> dict[str, list[str]]:
        """All names of the persons whom these identities, at most 1,000, mean. Raises ConnectionError."""
        request = BatchGetNamesRequest(identity_ids=identity_ids)
        answer = await self._background(self.stub.BatchGetNames, request)
        return {one: [one] for one in identity_ids} | {one.identity_id: [*one.identity_ids] for one in answer.names}

    async def judge_links(self, request: JudgeLinksRequest) -> JudgeLinksResponse:
        """Which contacts rules would give identities by other evidence. Raises ConnectionError."""
        return await self._background(self.stub.JudgeLinks, request)

    async def _background(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        timeout_s: float = _BACKGROUND_TIMEOUT_S,
    ) -> Answer:
        """The answer to a call that no other call waits for. Raises ConnectionError."""
        try:
            return await method(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"IDENTITY_TARGET answers {error.code().name}: {error.details()}") from error

    async def import_identities(self, request: ImportIdentitiesRequest) -> None:
        """Send identities from imported visits. Raises ConnectionError when the service refuses or does not answer."""
        await self._background(self.stub.ImportIdentities, request, _IMPORT_TIMEOUT_S)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
