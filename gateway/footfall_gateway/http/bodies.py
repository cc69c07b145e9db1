"""Reads the bodies of requests, with limits for size, time, compression and all bodies together."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Final

from footfall_eventlog.events import MAX_BATCH_BYTES
from starlette.types import Receive

from footfall_gateway.problem import Problem

MAX_BODY: Final = MAX_BATCH_BYTES
MAX_DISCARDED: Final = 8 * 1024 * 1024
"""Bytes of an oversized body that are read, so that its sender receives the 413 instead of a connection reset."""


_IDENTITY: Final = {"", "identity"}
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""For zlib: the header and the checksum of gzip."""


class ClientGoneError(Exception):
    """The client has closed the connection."""


def require_plain(content_encoding: str) -> None:
    """Raises Problem 415 for a compressed body, which is not supported."""
    if content_encoding.lower() not in _IDENTITY:
        raise Problem(
            415, "Content-Encoding: must be identity (send the body uncompressed)", accept_encoding="identity"
        )


def unpack(content_encoding: str, body: bytes, max_ratio: int) -> bytes:
    """The body without its `Content-Encoding`, `identity` or `gzip`.

    No more than MAX_BODY bytes are unpacked, and no more than `max_ratio` for each byte of the body.

    Raises:
        Problem: 415, another encoding; 400, the body is not gzip; 413, it is larger unpacked.

    """
    encoding = content_encoding.lower()
    if encoding in _IDENTITY:
        return body
    if encoding != "gzip":
        raise Problem(415, "Content-Encoding: must be gzip or identity", accept_encoding="gzip, identity")
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = unpacker.decompress(body, min(MAX_BODY, max_ratio * len(body)) + 1)
    except zlib.error:
        raise Problem(400, "the body is not gzip") from None
    if len(unpacked) > MAX_BODY:
        raise Problem(413, f"the body has more than {MAX_BODY} bytes unpacked")
    if len(unpacked) > max_ratio * len(body):
        raise Problem(413, f"the body has more than {max_ratio} times its size unpacked; send it uncompressed")
    if not unpacker.eof or unpacker.unused_data:
        raise Problem(400, "the body is not one complete gzip file")
    return unpacked


class BodyReader:
    """Reads bodies, and bounds the bytes of all bodies that are arriving."""

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        """`timeout_s`: for each body; `max_bytes`: of all bodies together."""
        self._timeout_s = timeout_s
        self._bytes_left = max_bytes

    async def read(self, receive: Receive, check_size: Callable[[int], None] = lambda _: None) -> bytes:
        """The body of a request, at most 1 MiB.

        `check_size` gets the number of bytes so far, with each part. What it raises ends the reading.

        Raises:
            Problem: 413, it is larger; 408, it did not arrive in time; 503, too many other bodies are arriving.
            ClientGoneError: the client has closed the connection.

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
                        check_size(size)
                        if len(part) > self._bytes_left:
                            raise Problem(503, "too many bodies; try again", retry_s=1, connection="close")
                        parts.append(part)
                        held += len(part)
                        self._bytes_left -= len(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(408, "the body took too long to arrive; send it again", connection="close") from None
        finally:
            self._bytes_left += held
        if size > MAX_BODY:
            raise Problem(413, f"the body has more than {MAX_BODY} bytes", connection="close")
        return parts[0] if len(parts) == 1 else b"".join(parts)
