"""Turns a position in a list into an opaque page token, good for the request that got it only, and back."""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message

from footfall_servicekit.errors import RequestError

_FINGERPRINT_BYTES = 8
PAGE_BYTES = 2 * 1024 * 1024  # half of what a channel takes by default


def fingerprint(request: Message) -> bytes:
    """Return what stays the same from page to page of one list: the request without `page_size` and `page_token`."""
    same = type(request)()
    same.CopyFrom(request)
    for field in ("page_size", "page_token"):
        same.ClearField(field)
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()[:_FINGERPRINT_BYTES]


def encode(position: str, request_fingerprint: bytes) -> str:
    """Return the token of the page that starts after `position`. It hides nothing: the caller may decode it."""
    return base64.urlsafe_b64encode(request_fingerprint + position.encode()).rstrip(b"=").decode()


def decode(token: str, request_fingerprint: bytes) -> str | None:
    """Return the position a token stands for, None for the empty token of the first page.

    Raises RequestError (INVALID_ARGUMENT) when the token is none of ours or belongs to another request.
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
    """Return how many of these, from the first on and at least one, go well into one message that a channel takes.

    A page may be shorter than was asked for; its token says that there is more.
    """
    size = 0
    for count, item in enumerate(items):
        size += item.ByteSize()
        if size > PAGE_BYTES:
            return max(1, count)
    return len(items)


def page_size(requested: int, default: int = 50, maximum: int = 1_000) -> int:
    """Return how many to list: 0 means `default`, more than `maximum` means `maximum`.

    Raises RequestError (INVALID_ARGUMENT) below 0.
    """
    if requested < 0:
        raise RequestError.invalid("page_size", "must not be negative")
    return min(requested or default, maximum)
