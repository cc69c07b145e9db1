"""Lets identity build live state again from history, and waits until it has.

Identity builds it again when its checkpoints name another process of Redis. So this names one that there is not.
"""

import asyncio
import time
from typing import Final

from footfall_eventlog.checkpoint_store import CheckpointStore, checkpoint_key
from footfall_servicekit.background import RefusalError

from footfall_ops.progress import Progress, say
from footfall_ops.stores import OpsSettings, opened_links

REQUESTED: Final = "rebuild requested"
_LOOK_EVERY_S: Final = 0.5


async def rebuild_live(settings: OpsSettings) -> int:
    """Return 0 when the live state of all partitions is built again. Raises RefusalError."""
    began, count = time.monotonic(), settings.identity.partitions
    async with opened_links(settings) as links:
        keys = [checkpoint_key(number, count) for number in range(count)]
        waiting = [key for key in keys if await _request(links.checkpoints, key)]
        if not waiting:
            raise RefusalError("identity has no checkpoints yet: it builds live state when it starts")
        progress = Progress(lambda: f"{len(waiting)} partitions left. Identity and history must run.")
        while waiting:
            await asyncio.sleep(_LOOK_EVERY_S)
            waiting = [key for key in waiting if await _is_requested(links.checkpoints, key)]
            progress.report()
    say(f"Live state is complete again, after {time.monotonic() - began:.0f} s.")
    return 0


async def _request(checkpoints: CheckpointStore, key: str) -> bool:
    """Request it of a partition; False if it has no checkpoint. Raises RefusalError."""
    while known := await checkpoints.read(key):
        if not known.node:
            raise RefusalError("Redis does not say which process it is (INFO), so live state cannot be requested again")
        if await checkpoints.replace(key, known, known._replace(node=REQUESTED)):
            return True
    return False


async def _is_requested(checkpoints: CheckpointStore, key: str) -> bool:
    known = await checkpoints.read(key)
    return known is not None and known.node == REQUESTED
