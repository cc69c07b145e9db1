"""Turns what arrives of a request's body into bytes, and no more of all requests at once than there is room for."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from footfall_eventlog.events import MAX_BATCH_BYTES

from footfall_gateway.problem import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_BODY: Final = MAX_BATCH_BYTES
MAX_DISCARDED: Final = 8 * 1024 * 1024
"""So much of an oversized body is read, so that its sender sees the answer instead of a reset connection."""

_RETRY_S: Final = 1


class ClientGoneError(Exception):
    """The client has closed the connection; nobody is left to answer."""


def must_be_plain(content_encoding: str) -> None:
    """Raises Problem 415 for a body that says it is encoded: nothing here decodes it."""
    if content_encoding.lower() not in {"", "identity"}:
        raise Problem(415, "Content-Encoding: must be identity, the body as it is", accept_encoding="identity")


class Bodies:
    """The bodies that are arriving at this gateway."""

    def __init__(self, timeout_s: float, most_bytes: int) -> None:
        """Wait so long for each, and hold so many bytes of all of them."""
        self._timeout_s = timeout_s
        self._room = most_bytes

    async def read(self, receive: Receive) -> bytes:
        """The body of a request, at most 1 MiB.

        Raises:
            Problem: 413, it is larger; 408, it did not arrive in time; 503, too much else is arriving.
            ClientGoneError: the connection was closed first.

        """
        parts: list[bytes] = []
        size, held, more = 0, 0, True
        try:
            async with asyncio.timeout(self._timeout_s):
                while more and size <= MAX_DISCARDED:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= MAX_BODY:
                        if len(part) > self._room:
                            raise Problem(503, "too much is arriving", retry_s=_RETRY_S, connection="close")
                        parts.append(part)
                        held += len(part)
                        self._room -= len(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(408, "the body took too long to arrive", connection="close") from None
        finally:
            self._room += held
        if size > MAX_BODY:
            raise Problem(413, f"the body has more than {MAX_BODY} bytes", connection="close")
        return parts[0] if len(parts) == 1 else b"".join(parts)
