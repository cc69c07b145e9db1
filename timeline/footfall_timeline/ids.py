"""Ids and keys derived from what a browser sends: a retry, a replay and every reader compute the same ones."""

import hashlib
import hmac
import zlib
from functools import lru_cache


def normalize_uuid(text: str) -> str:
    """The dashed lower-case form of a UUID given dashed or as 32 hex digits, in any case.

    Raises ValueError for anything else, also for forms that `uuid.UUID` would accept (braces, `urn:uuid:`).
    """
    is_dashed = len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-"
    digits = text.replace("-", "") if is_dashed else text
    try:
        digits = bytes.fromhex(digits).hex() if digits.isalnum() else ""  # `fromhex` skips white space
    except ValueError:
        digits = ""
    if len(digits) != 32:
        raise ValueError("not a UUID")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def order_key(event_time_ms: int, event_id: str) -> str:
    """The key that orders the events of a visit: it sorts as (event_time_ms, event_id) does. 49 characters."""
    return f"{event_time_ms:013d}{event_id}"


def partition(visit_id: str, partitions: int) -> int:
    """The partition of a visit, from 0 to `partitions` - 1. It never changes for the same two values."""
    return zlib.crc32(visit_id.encode()) % partitions


@lru_cache(maxsize=16_384)
def scoped_visit_id(visit_id: str, group: str) -> str:
    """The id of the visit that a browser calls `visit_id` on the sites of a group: UUIDv5 of both.

    Without a group, and for the group `default`, it is `visit_id` itself. But a `visit_id` of version 5 may be the
    derived id of another group, so the group `default` derives an id from it too.
    """
    is_plain = not group or (group == "default" and visit_id[14] != "5")
    return visit_id if is_plain else _uuid5(visit_id, f"group/{group}")


def session_id(visit_id: str, sign_in_event_id: str) -> str:
    """The id of the session that a SignIn opens: UUIDv5 of the visit and the event id of the SignIn."""
    return _uuid5(visit_id, f"session/{sign_in_event_id}")


def identity_hash(erasure_key: str, identity: str) -> bytes:
    """The hash of an erased identity in the log and in tombstones: HMAC-SHA256 with ERASURE_KEY. 32 bytes."""
    return hmac.digest(erasure_key.encode(), identity.encode(), "sha256")


@lru_cache(maxsize=16_384)
def page_id(visit_id: str, browser_page_id: str) -> str:
    """The id of a page entry: UUIDv5 of the visit and the id that the browser gave the page."""
    return _uuid5(visit_id, f"page/{browser_page_id}")


@lru_cache(maxsize=16_384)
def user_agent_id(visit_id: str, user_agent: str) -> str:
    """The id of a user-agent record: UUIDv5 of the visit and the user agent."""
    return _uuid5(visit_id, f"userAgent/{user_agent}")


def _uuid5(namespace: str, name: str) -> str:
    """`str(uuid.uuid5(uuid.UUID(namespace), name))` in 2 instead of 5 µs: every new page needs one.

    Raises ValueError when the namespace is not a UUID.
    """
    parent = bytes.fromhex(namespace.replace("-", ""))
    if len(parent) != 16:
        raise ValueError("not a UUID")
    digits = hashlib.sha1(parent + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
