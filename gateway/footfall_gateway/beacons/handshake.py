"""TLS connections: they count as open from the accept on, before their handshake, which has a limit of time."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # its stub lacks the class that serves TLS

from footfall_gateway.beacons.open_connections import OpenConnections


def tls_protocol(
    make_protocol: Callable[..., Any], context: ssl.SSLContext, limit_s: float, open_connections: OpenConnections
) -> Any:
    """The protocol factory for uvicorn that serves the protocols of another one by TLS.

    A server that gets the TLS context itself creates the same objects, and shows no connection before its handshake is
    complete. `limit_s`: for the handshake.
    """
    return partial(_TlsConnection, make_protocol, context, limit_s, open_connections)


class _TlsConnection(SSLProtocol):  # type: ignore[misc]  # untyped
    """An open connection until its handshake is complete. Then the protocol inside it takes its place."""

    transport: asyncio.Transport

    def __init__(
        self,
        make_protocol: Callable[..., Any],
        context: ssl.SSLContext,
        limit_s: float,
        open_connections: OpenConnections,
        server_state: ServerState,
        **uvicorn_arguments: Any,
    ) -> None:
        protocol = make_protocol(open_connections=self, server_state=server_state, **uvicorn_arguments)
        loop = asyncio.get_running_loop()
        super().__init__(loop, protocol, context, None, server_side=True, ssl_handshake_timeout=limit_s)
        self._open_connections = open_connections
        self._server_connections: set[Any] = server_state.connections

    def connection_made(self, transport: Any) -> None:
        """Begin the handshake."""
        self.transport = transport
        address = get_remote_addr(transport)
        self._server_connections.add(self)
        self._open_connections.add(self, address[0] if address else "")
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the connection."""
        super().connection_lost(exc)
        self._end_handshake()

    def add(self, connection: Any, address: str) -> bool:
        """Replace this connection by the protocol inside it, among the open connections."""
        self._end_handshake()
        return self._open_connections.add(connection, address)

    def remove(self, connection: Any) -> None:
        """Remove the protocol from the open connections."""
        self._open_connections.remove(connection)

    def may_be_closed(self, now_s: float) -> bool:  # noqa: ARG002 - asked of every connection
        """Always: before the handshake there is no request."""
        return True

    def cut_off_when_slow(self, now_s: float, limit_s: float) -> None:
        """Do nothing: the handshake has its own limit."""

    def shutdown(self) -> None:
        """Close the connection, because the server stops."""
        self.transport.abort()

    def _end_handshake(self) -> None:
        self._server_connections.discard(self)
        self._open_connections.remove(self)
