"""Follows SITES_FILE while a process runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from footfall_servicekit.reloading import ReloadingFile


async def follow_sites(file: Path | None, *parts: tuple[Callable[[Path], Any], Callable[[Any], None]]) -> None:
    """Read the file when it changes, until cancelled, and pass what each part loads to what takes it, all together.

    Returns immediately if there is no file. A changed file that cannot be used is logged, and what was taken before
    stays in use. Raises SitesFileError for the first one.
    """
    if file is None:
        return

    async def take(loaded: list[Any]) -> bool:
        for (_, take_part), value in zip(parts, loaded, strict=True):
            take_part(value)
        return True

    await ReloadingFile(lambda: [load(file) for load, _ in parts], [file]).follow(take)
