"""Files that are read again when they have changed."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

T = TypeVar("T")

LOOK_EVERY_S: Final = 1.0

_log = structlog.get_logger()


class ReloadingFile(Generic[T]):
    """What one or more files hold. They are checked for changes only when a method is called."""

    def __init__(self, load: Callable[[], T], files: Iterable[Path | None]) -> None:
        """`load` raises OSError, or ValueError with a text that may be logged. Raises what `load` raises."""
        self._load = load
        self._files = [file for file in files if file]
        self._seen = self._state()
        self.latest = load()

    def current(self) -> T:
        """What the files hold now, or held when they could last be used. Blocks for microseconds if unchanged."""
        self.renewed()
        return self.latest

    def renewed(self) -> T | None:
        """What the files hold now; None while they are unchanged. May be called by any thread, and never raises.

        Files that cannot be used, such as a certificate whose key is still to be written, leave `latest` as it was.
        """
        state = self._state()
        if state == self._seen:
            return None
        self._seen = state  # before loading, so that files that cannot be used are tried and logged once
        names = [str(file) for file in self._files]
        try:
            self.latest = self._load()
        except (OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            _log.error("files have changed and cannot be used", files=names, reason=reason)
            return None
        _log.info("files have changed and are in use", files=names)
        return self.latest

    async def follow(self, take: Callable[[T], Awaitable[bool]] | None = None) -> None:
        """Check for changes now and each second, until cancelled.

        What is in use is passed to `take` once, and again each second until it returns True. Returns immediately if
        there are no files. Raises what `take` raises.
        """
        taken: T | None = None
        while self._files:
            latest = await asyncio.to_thread(self.current)
            if take and latest is not taken and await take(latest):
                taken = latest
            await asyncio.sleep(LOOK_EVERY_S)

    def _state(self) -> list[tuple[int, ...]]:
        return [_state_of(file) for file in self._files]


def _state_of(file: Path) -> tuple[int, ...]:
    try:
        status = os.stat(file)  # follows links, by which Kubernetes changes all files of a folder together
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size


def reason_of(error: OSError) -> str:
    """Why files cannot be used, in words of OpenSSL or of the system that quote nothing."""
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
