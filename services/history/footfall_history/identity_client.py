"""Turns identity ids into what the identity service knows of them: the one file that calls a neighbour."""

from collections.abc import Sequence
from typing import Any, Final

import grpc
import structlog
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2 import BatchGetIdentitiesRequest, ImportIdentitiesRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded, open_channel, remaining
from footfall_servicekit.tls import ClientTls

_TAKE_OVER_S: Final = 30.0

_log = structlog.get_logger()


class Identities:
    """The identity service. Make it in the running loop."""

    def __init__(self, target: str, timeout_ms: int, tls: ClientTls | None = None) -> None:
        self._channel = open_channel(target, tls)
        self._stub = IdentityServiceStub(self._channel)
        self._timeout_s = timeout_ms / 1000

    async def get(
        self, ids: Sequence[str], context: "grpc.aio.ServicerContext[Any, Any]", sites: Sequence[str] = ()
    ) -> tuple[dict[str, Identity], int]:
        """Those it knows, on behalf of the call in `context`, and to how many of these ids that is the answer.

        At most 1,000; less when they are too much for one message. None is known when it does not answer.
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
            _log.warning("identity does not answer; its identities are given by id alone", code=error.code().name)
            return {}, len(ids)
        known = {identity.identity_id: identity for identity in answer.identities}
        return known, len(ids) - len(answer.unread_identity_ids)

    async def take_over(self, request: ImportIdentitiesRequest) -> None:
        """Bring it what the past says of identities. Raises ConnectionError when it does not answer, or refuses."""
        try:
            await self._stub.ImportIdentities(request, timeout=_TAKE_OVER_S)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"identity answers {error.code().name}: {error.details()}") from error

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
