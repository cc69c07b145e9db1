"""The open connections: how many one address may have, and which are closed when few further ones can be opened."""

import asyncio
import heapq
import sys
from collections import Counter
from typing import Final, Protocol

from footfall_servicekit.failure_log import FailureLog
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from footfall_gateway import metrics
from footfall_gateway.addresses import network

LOOK_EVERY_S: Final = 1.0
_KEPT: Final = 16
"""Connections without a complete request that stay open in any case, so that a new client can send its request."""
_SEARCH_EVERY: Final = 16
"""New connections from one search for connections to close to the next, when the last one has found too few."""


class Connection(Protocol):
    """A connection that can be closed when few further ones can be opened, or when its client is slow."""

    transport: asyncio.Transport

    def may_be_closed(self, now_s: float) -> bool:
        """Whether nothing but its own client notices when it is closed: no complete request waits for an answer."""
        ...

    def cut_off_when_slow(self, now_s: float, limit_s: float) -> None:
        """Close the connection when it has waited for its client for `limit_s`. To be called periodically."""
        ...


class OpenConnections:
    """The open connections, at most `most` of which are served.

    A sixteenth of them is kept free: when it is used, connections without a complete request are closed until an eighth
    is free. The address with most of them loses its connections first, the oldest first. Connections of
    `trusted_proxies` carry many clients, so each counts as an address of its own.
    """

    def __init__(self, most: int, most_per_address: int, trusted_proxies: str) -> None:
        """`most_per_address` 0: no limit. `trusted_proxies` has uvicorn's format."""
        self.most = most
        self._most_per_address = most_per_address or sys.maxsize
        # The same proxies as those whose headers are believed.
        self._proxies = ProxyHeadersMiddleware(None, trusted_proxies).trusted_hosts  # type: ignore[arg-type]
        self._owners: dict[Connection, object] = {}  # oldest first
        self._counts: Counter[object] = Counter()
        self._kept = min(_KEPT, max(1, most // 16))
        self._added_until_search = 0
        self._log = FailureLog("connections without a complete request are closed", "limit")

    def add(self, connection: Connection, address: str) -> bool:
        """Add a new connection, and make room for the next one. False when its address has too many."""
        owner = connection if address in self._proxies else network(address)
        self._owners[connection] = owner
        self._counts[owner] += 1
        metrics.CONNECTIONS.inc()
        self._added_until_search -= 1
        if self._is_nearly_full() and self._added_until_search <= 0:
            self._make_room()
        return self._counts[owner] <= self._most_per_address

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed or being closed. A second time this does nothing."""
        if connection not in self._owners:
            return
        owner = self._owners.pop(connection)
        self._counts[owner] -= 1
        if not self._counts[owner]:
            del self._counts[owner]
        metrics.CONNECTIONS.dec()

    async def look(self, limit_s: float) -> None:
        """Close connections that have waited for their clients for `limit_s`. To be called periodically."""
        now_s = _now_s()
        for connection in [*self._owners]:
            connection.cut_off_when_slow(now_s, limit_s)
        if self._is_nearly_full():
            self._make_room()
        else:
            self._log.worked(str(self.most))

    def _is_nearly_full(self) -> bool:
        return len(self._owners) > self.most - self.most // 16

    def _make_room(self) -> None:
        """Close connections without a complete request. Takes time for each open connection, so it closes many."""
        now_s = _now_s()
        ranks: Counter[object] = Counter()
        closable = []
        for age, (connection, owner) in enumerate(reversed(self._owners.items())):
            if connection.may_be_closed(now_s):
                closable.append((ranks[owner], age, connection))
                ranks[owner] += 1
        opened = len(self._owners)
        wanted = opened - (self.most - self.most // 8)
        # The rank of a connection is the number of newer ones of its address.
        chosen = heapq.nlargest(min(wanted, len(closable) - self._kept), closable)
        for _, _, connection in chosen:
            connection.transport.abort()
            self.remove(connection)  # the loop reports it later, after other connections that have arrived
            metrics.CLOSED_CONNECTIONS.inc()
            self._log.failed(str(self.most), details={"open": opened})
        if len(chosen) < wanted:  # most have complete requests: the next search would find too few again
            self._added_until_search = _SEARCH_EVERY


def _now_s() -> float:
    return asyncio.get_running_loop().time()
