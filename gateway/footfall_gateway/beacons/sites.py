"""The sites of SITES_FILE: which pages may read responses, and which site an event belongs to."""

import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

DEFAULT_SITE = "default"

_MAX_CACHED_LENGTH = 512  # longer than any site and origin


class SitesFileError(ValueError):
    """SITES_FILE cannot be used. The text says why."""


class Site(msgspec.Struct, frozen=True):
    """A website. `origins` are exact, or patterns such as `https://*.shop.example`; none: pages of any origin."""

    name: str
    origins: tuple[str, ...] = ()

    def has(self, origin: str) -> bool:
        """Whether pages of this origin belong to the site."""
        return any(pattern in self.origins for pattern in patterns(origin))


class _SitesFile(msgspec.Struct):
    site: list[Site]


class Sites:
    """The sites of a deployment. Without a file, an event may name any site."""

    def __init__(self, sites_file: Path | None = None) -> None:
        """Read the file. Raises SitesFileError when it cannot be read or is malformed."""
        self._sites = {site.name: site for site in _read(sites_file)} if sites_file else {}
        self._known = lru_cache(maxsize=4_096)(self._find)

    def may_read(self, origin: str) -> bool:
        """Whether pages of this origin may read a response.

        Pages of all sites may: a response has only the outcomes of the page's own events. The collector decides which
        site an event may name.
        """
        sites = self._sites.values()
        return not sites or any(not site.origins or site.has(origin) for site in sites)

    def find(self, name: str, origin: str) -> str:
        """The site of an event that names `name` ("": none), from a page of `origin` ("": no page).

        The collector decides by the same rules. "": the collector will reject the event.
        """
        return self._known(name, origin) if len(name) + len(origin) <= _MAX_CACHED_LENGTH else ""

    def _find(self, name: str, origin: str) -> str:
        if not self._sites:
            return name or DEFAULT_SITE
        if not name:
            by_origin = next((site.name for site in self._sites.values() if site.has(origin)), "")
            if by_origin:
                return by_origin
        site = self._sites.get(name or DEFAULT_SITE)
        return site.name if site and (not origin or not site.origins or site.has(origin)) else ""


def _read(sites_file: Path) -> list[Site]:
    try:
        sites = msgspec.convert(tomllib.loads(sites_file.read_text(encoding="utf-8")), _SitesFile).site
    except OSError as error:
        raise SitesFileError(f"{sites_file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or malformed; none of these texts quotes a key
        raise SitesFileError(f"{sites_file}: {error}") from None
    return [Site(site.name, tuple(origin.rstrip("/").lower() for origin in site.origins)) for site in sites]


def patterns(origin: str) -> Iterator[str]:
    """The origins of SITES_FILE that match an origin.

    For https://a.b.shop.example: itself, https://*.b.shop.example, https://*.shop.example, https://*.example.
    """
    origin = origin.lower()
    yield origin
    scheme, _, host = origin.partition("://")
    labels = host.split(".")
    for number in range(1, len(labels)):
        yield f"{scheme}://*.{'.'.join(labels[number:])}"
