"""Pages of lists: page sizes, and opaque page tokens that are valid only with the request that they came from."""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message

from footfall_servicekit.errors import RequestError

_FINGERPRINT_BYTES = 8
PAGE_BYTES = 2 * 1024 * 1024  # half of the largest message by default


def fingerprint(request: Message) -> bytes:
    """A hash of what stays the same for all pages of one list: method, and request without size and token of the page.

    The name of the request's type stands for the method.
    """
    same = type(request)()
    same.CopyFrom(request)
    for field in ("page_size", "page_token"):
        same.ClearField(field)
    method = type(request).DESCRIPTOR.full_name.encode()
    return hashlib.sha256(method + b"\0" + same.SerializeToString(deterministic=True)).digest()[:_FINGERPRINT_BYTES]


def encode(position: str, request_fingerprint: bytes) -> str:
    """The token of the page that starts after `position`. It is not encrypted."""
    return base64.urlsafe_b64encode(request_fingerprint + position.encode()).rstrip(b"=").decode()


def decode(token: str, request_fingerprint: bytes) -> str | None:
    """The position in a token; None for the empty token of the first page.

    Raises RequestError (INVALID_ARGUMENT) when the token is malformed or belongs to another request.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position = raw[_FINGERPRINT_BYTES:].decode()
    except (binascii.Error, ValueError):
        raise RequestError.invalid("page_token", "must be a token that this method returned") from None
    if raw[:_FINGERPRINT_BYTES] != request_fingerprint:
        raise RequestError.invalid("page_token", "must come with the request that it was returned to, unchanged")
    return position


def fitting(items: Sequence[Message]) -> int:
    """How many of these items, from the first on and at least one, fit into one page.

    A page may be shorter than the requested size; its token says that there are more items.
    """
    size = 0
    for count, item in enumerate(items):
        size += item.ByteSize()
        if size > PAGE_BYTES:
            return max(1, count)
    return len(items)


def page_size(requested: int, default: int = 50, maximum: int = 1_000) -> int:
    """The number of items of a page: 0 means `default`, more than `maximum` means `maximum`.

    Raises RequestError (INVALID_ARGUMENT) below 0.
    """
    if requested < 0:
        raise RequestError.invalid("page_size", "must not be negative")
    return min(requested or default, maximum)
