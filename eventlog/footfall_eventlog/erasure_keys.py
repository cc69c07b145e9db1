"""The values of ERASURE_KEY: how erased persons are recognised, and how the key can change.

The last value makes the hash of an identity. Under it stores and the log find what names the identity, and it never
changes. Of an erased person only tombstones are left. With several values a tombstone holds the hash sealed under the
first value, so who knows only a former value cannot tell whose it is.
"""

import hmac
from collections.abc import Iterator

from footfall_timeline import identity_hash

from footfall_eventlog.interactions import subject_hash

OTHER_KEY = (
    "ERASURE_KEY: identities were erased in this database with another key; set that one, or put the new one before it "
    "and run `footfall-ops change-erasure-key`"
)
"""Why a process does not start."""


class ErasureKeys:
    """The values of an ERASURE_KEY. Hashes, marks and seals are hexadecimal."""

    def __init__(self, erasure_key: str) -> None:
        """`erasure_key`: the newest value first, separated by commas; empty if there is none."""
        self._values = erasure_key.split(",")
        self.check = self.mark(self.hash(""))[:16] if erasure_key else ""
        """What tombstones made with these values have in common. Values between the first and the last do not count."""

    def __bool__(self) -> bool:
        return any(self._values)

    def hash(self, identity: str) -> str:
        """The hash of an identity. Without a key it is that of an empty key."""
        return identity_hash(self._values[-1], identity).hex()

    def hash_of(self, identity: str) -> str:
        """The hash of an identity; empty for none, and without a key."""
        return self.hash(identity) if identity and self else ""

    def subject_hash(self, kind: str, value: str) -> str:
        """The hash of the subject of an interaction."""
        return subject_hash(self._values[-1], kind, value).hex()

    def mark(self, hashed: str) -> str:
        """How a tombstone of this hash is named: as the hash itself, if the key has never changed."""
        return self._under_first(b"mark", hashed) if len(self._values) > 1 else hashed

    def sealed(self, hashed: str) -> str:
        """The hash, for a tombstone from which `opened` reads it. Empty if the mark is the hash."""
        if len(self._values) < 2:
            return ""
        return _xor(hashed, self._under_first(b"seal", self.mark(hashed)))

    def opened(self, mark: str, sealed: str) -> str:
        """The hash of a tombstone that was made with these values."""
        return _xor(sealed, self._under_first(b"seal", mark)) if sealed else mark

    def former(self) -> "Iterator[ErasureKeys]":
        """The keys that were in use before one change or several."""
        for number in range(1, len(self._values)):
            yield ErasureKeys(",".join(self._values[number:]))

    def _under_first(self, purpose: bytes, text: str) -> str:
        return hmac.digest(self._values[0].encode(), purpose + bytes.fromhex(text), "sha256").hex()


def _xor(one: str, other: str) -> str:
    return bytes(a ^ b for a, b in zip(bytes.fromhex(one), bytes.fromhex(other), strict=True)).hex()
