"""Client of the identity service: the only module of history that calls another service."""

from collections.abc import Sequence
from typing import Any, Final

import grpc
import structlog
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2 import BatchGetIdentitiesRequest, ImportIdentitiesRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded, open_channel, remaining
from footfall_servicekit.tls import ClientTls

_IMPORT_TIMEOUT_S: Final = 30.0

_log = structlog.get_logger()


class IdentityClient:
    """The identity service. Create it in the running event loop."""

    def __init__(self, target: str, timeout_ms: int, tls: ClientTls | None = None) -> None:
        self._channel = open_channel(target, tls)
        self._stub = IdentityServiceStub(self._channel)
        self._timeout_s = timeout_ms / 1000

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
            answer = await self._stub.BatchGetIdentities(
                BatchGetIdentitiesRequest(identity_ids=ids, sites=sites),
                timeout=remaining(context, self._timeout_s),
                metadata=forwarded(),
            )
        except grpc.aio.AioRpcError as error:
            _log.warning("identity does not answer; the response has ids only", code=error.code().name)
            return {}, len(ids)
        known = {identity.identity_id: identity for identity in answer.identities}
        return known, len(ids) - len(answer.unread_identity_ids)

    async def import_identities(self, request: ImportIdentitiesRequest) -> None:
        """Send identities from imported visits. Raises ConnectionError when the service refuses or does not answer."""
        try:
            await self._stub.ImportIdentities(request, timeout=_IMPORT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"IDENTITY_TARGET answers {error.code().name}: {error.details()}") from error

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
