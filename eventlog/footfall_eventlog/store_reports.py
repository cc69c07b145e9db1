"""What the command `check --stores` says of Redis and MongoDB. It knows no driver: services pass errors."""

import asyncio
from collections.abc import Sequence
from typing import Final

from footfall_servicekit.background import NotReadyError, RefusalError

from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis

_TIMEOUT_S: Final = 5.0
_REFUSED_USER_CODES: Final = {13, 18, 8000}
"""Unauthorized, AuthenticationFailed, AtlasError."""


async def redis_report(redis: PartitionedRedis, *, needs_waitaof: bool = False) -> str:
    """Check Redis, without writing. Returns a line about it. Raises RefusalError and NotReadyError."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await redis.check(needs_waitaof=needs_waitaof, is_trial=True)
            made_with = await redis.made_with()
    except (*TRANSIENT_ERRORS, TimeoutError):
        raise NotReadyError("REDIS_URL: Redis does not answer") from None
    return f"Redis answers; PARTITIONS is {made_with}." if made_with else "Redis answers; it has no data of Footfall."


def mongo_report(version: str, missing: Sequence[str]) -> str:
    """A line about a MongoDB that answers. `missing`: indexes."""
    indexes = f"the start makes these indexes: {', '.join(missing)}" if missing else "all indexes exist"
    return f"MongoDB {version} answers; {indexes}."


def mongo_problem(error: Exception) -> Exception:
    """The error to raise in place of one of the driver."""
    if getattr(error, "code", None) in _REFUSED_USER_CODES:
        return RefusalError("MONGO_URL: MongoDB does not accept its user and password, or the user lacks a permission")
    return NotReadyError(f"MONGO_URL: MongoDB does not answer ({type(error).__name__})")
