"""Turns the age of what Redis cannot expire by itself, being part of a key, into its removal."""

import asyncio
from typing import Final

from footfall_servicekit.errors import RequestError

from footfall_identity.visitor_store import VisitorStore

_SWEEP_EVERY_S: Final = 600.0


async def keep_swept(visitors: VisitorStore, numbers: range) -> None:
    """Remove what has expired in these partitions, again and again, until cancelled."""
    while True:
        try:
            for number in numbers:
                await visitors.remove_expired(number)
        except RequestError:
            pass  # Redis is away, which has been logged; what has expired can wait
        await asyncio.sleep(_SWEEP_EVERY_S)
