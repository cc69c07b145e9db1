"""Slow hashes of the tokens of keys from earlier versions. The hash contains its parameters, as for passwords."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_SLOW = "$argon2"
_slow_hasher = PasswordHasher()


def is_slow_hash(kept: str) -> bool:
    """Whether a stored hash is slow (`matches_slow_hash`), and not the hash of a token that is made now."""
    return kept.startswith(_SLOW)


def matches_slow_hash(kept: str, token: str) -> bool:
    """Whether the token has this slow hash. Takes about 0.1 s of CPU, without blocking other threads."""
    try:
        return _slow_hasher.verify(kept, token)
    except (VerificationError, InvalidHashError):
        return False
