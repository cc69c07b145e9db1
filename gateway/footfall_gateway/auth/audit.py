"""Turns the ids a request names into what its log line may say of them: keyed hashes, which name nobody.

Whoever has the key and the id can find every line about it; whoever has the log alone learns nobody's name from it, and
no id of a visit, with which events could be added to that visit.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from footfall_timeline import normalize_uuid

_HASH_BYTES = 16
_ID = re.compile(r"(identity|contact|visit|session|page|event)I[dD]")


class Audit:
    """Names for log lines. Without a key there are none."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def whose(self, ids: Mapping[str, str]) -> dict[str, str]:
        """By kind of resource, the hash of each id; `ids` as an operation's path names them, such as `visitId`."""
        return {name.removesuffix("Id"): self.hash(name, value) for name, value in ids.items()} if self._key else {}

    def hash(self, name: str, value: str) -> str:
        """The hash of one id, in hexadecimal; a UUID's is the same in all its forms."""
        kind = name[:-2]
        if kind not in {"identity", "contact"}:
            with suppress(ValueError):  # what is none names nothing, but somebody has asked for it
                value = normalize_uuid(value)
        return hmac.digest(self._key, f"{kind}:{value}".encode(), hashlib.sha256)[:_HASH_BYTES].hex()

    def hashes(self, exported: Any) -> Iterator[str]:
        """The hash of every id in a line of an identity's export, but for what pages have sent."""
        if isinstance(exported, list):
            for item in exported:
                yield from self.hashes(item)
        elif isinstance(exported, dict):
            for name, value in exported.items():
                if isinstance(value, str) and _ID.fullmatch(name):
                    yield self.hash(name, value)
                elif name not in {"data", "profile"}:
                    yield from self.hashes(value)
