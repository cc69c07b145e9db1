"""Files of settings that a running collector reads again when they change."""

import asyncio
from typing import Final, TypeVar

from footfall_servicekit.reloading import ReloadingFile

T = TypeVar("T")

CHECK_INTERVAL_S: Final = 1.0


class WatchedFile(ReloadingFile[T]):
    """A file that `watch` checks, so that no event waits for it."""

    async def watch(self) -> None:
        """Reload the file when it changes, until cancelled. Returns immediately if there is none."""
        while self._files:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await asyncio.to_thread(self.renewed)
