"""Keyed hashes of the ids in a request, for its log line.

With the key and an id, an auditor finds all log lines about the id. Without the key, the log discloses no person, and
no visit id, which would allow adding events to that visit.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from footfall_timeline import normalize_uuid

_HASH_BYTES = 16
_ID = re.compile(r"(identity|contact|visit|session|page|event|interaction)I[dD]")


class Audit:
    """Hashes ids under the audit key. Without a key, log lines have no hashes."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def subject_hashes(self, ids: Mapping[str, str]) -> dict[str, str]:
        """The hash of each id, by kind of resource. `ids`: path parameters of an operation, such as `visitId`."""
        return {name.removesuffix("Id"): self.hash(name, value) for name, value in ids.items()} if self._key else {}

    def contact_hashes(self, contact_ids: Iterable[str]) -> list[str]:
        """The hashes of contacts."""
        return [self.hash("contactId", contact_id) for contact_id in contact_ids] if self._key else []

    def hash(self, name: str, value: str) -> str:
        """The hash of one id, in hexadecimal. All spellings of a UUID have the same hash."""
        kind = name[:-2]
        if kind not in {"identity", "contact", "interaction"}:
            with suppress(ValueError):  # no UUID: the request is audited all the same
                value = normalize_uuid(value)
        return hmac.digest(self._key, f"{kind}:{value}".encode(), hashlib.sha256)[:_HASH_BYTES].hex()

    def hashes(self, exported: Any) -> Iterator[str]:
        """The hash of every id in a line of an identity's export, except in data that pages have sent."""
        if isinstance(exported, list):
            for item in exported:
                yield from self.hashes(item)
        elif isinstance(exported, dict):
            for name, value in exported.items():
                if isinstance(value, str) and _ID.fullmatch(name):
                    yield self.hash(name, value)
                elif name not in {"data", "profile"}:
                    yield from self.hashes(value)
