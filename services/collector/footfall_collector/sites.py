"""Turns the site an event names, or the origin it came from, into the site it belongs to."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

DEFAULT_SITE: Final = "default"
SITE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Site:
    """A website."""

    name: str


class OpenSites:
    """No site is configured: a site is whatever calls itself one, and `default` what does not say."""

    def find(self, name: str, _origin: str) -> Site | None:
        """Return the site of an event, or None when its name is none that a site can have."""
        return _site_named(name or DEFAULT_SITE)


@lru_cache(maxsize=1_024)
def _site_named(name: str) -> Site | None:
    return Site(name) if SITE_NAME.fullmatch(name) else None
