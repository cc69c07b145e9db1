"""The sites file (SITES_FILE): the websites of a deployment, and which of them an event belongs to.

The one parser of the file. Every service reads names, groups and origins; the collector also reads the keys.
"""

import re
import tomllib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

import msgspec

DEFAULT_SITE: Final = "default"
"""The site of events that name none and come from no known origin."""
SITE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_MAX_CACHED_LENGTH: Final = 512  # a host name has at most 253 characters; longer texts come from attackers


class SitesFileError(ValueError):
    """SITES_FILE cannot be used. The text names every problem and quotes no key."""


class Site(msgspec.Struct, frozen=True):
    """A website.

    `origins` are exact, or `https://*.example.com` for every name below that one. A site without origins accepts pages
    of any origin. Sites of one `group` share their visits.
    """

    name: str
    origins: tuple[str, ...] = ()
    group: str = ""

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may report for the site. A request that no browser made has no origin."""
        return not origin or not self.origins or self.has(origin)

    def has(self, origin: str) -> bool:
        """Whether the origin is one of the site's own."""
        return any(_matches(pattern, origin.lower()) for pattern in self.origins)


class _SitesFile(msgspec.Struct):
    site: list[Site]


FormT = TypeVar("FormT")
SiteT = TypeVar("SiteT", bound=Site)


class Sites(Generic[SiteT]):
    """The sites of a deployment. Without SITES_FILE there are none, and an event may name any site."""

    def __init__(self, sites: Iterable[SiteT], unlisted: Callable[[str], SiteT]) -> None:
        """`unlisted` makes a site of a name where no sites are listed."""
        self._sites = {site.name: site for site in sites}
        self._unlisted = unlisted
        self.changes = 0
        """How often the file has been read again. What was concluded from the sites before is no longer right."""
        self._find_cached = lru_cache(maxsize=4_096)(self._find)

    def take(self, other: Self) -> None:
        """Become the sites of another state of the file."""
        self._sites = other._sites
        self._find_cached.cache_clear()
        self.changes += 1

    @property
    def are_listed(self) -> bool:
        """Whether SITES_FILE lists the sites, which are then isolated from each other."""
        return bool(self._sites)

    def find(self, name: str, origin: str) -> SiteT | None:
        """The site of an event that names `name`, or none (""), from a page of `origin`, or no page ("").

        None when the site is not known, or its origins exclude the page. An event that names no site belongs to the
        first site that has the origin, or else to `default`.
        """
        return self._find_cached(name, origin) if len(name) + len(origin) <= _MAX_CACHED_LENGTH else None

    def may_read(self, origin: str) -> bool:
        """Whether pages of this origin may read a response: pages of every site may.

        A response says only what became of the page's own events. `find` decides which site these may name.
        """
        sites = self._sites.values()
        return not sites or any(not site.origins or site.has(origin) for site in sites)

    def _find(self, name: str, origin: str) -> SiteT | None:
        if not self._sites:
            name = name or DEFAULT_SITE
            return self._unlisted(name) if SITE_NAME.fullmatch(name) else None
        if not name:
            by_origin = next((site for site in self._sites.values() if site.has(origin)), None)
            if by_origin is not None:
                return by_origin
        site = self._sites.get(name or DEFAULT_SITE)
        return site if site is not None and site.allows(origin) else None


def load_sites(file: Path | None) -> Sites[Site]:
    """The sites of SITES_FILE. Raises SitesFileError."""
    return Sites(read_sites(file) if file else (), Site)


def read_sites(file: Path) -> list[Site]:
    """The sites that the file lists. Fields that only the collector reads are not checked. Raises SitesFileError."""
    sites = parse_sites_file(file, _SitesFile).site
    return [msgspec.structs.replace(site, origins=normalize_origins(site.origins)) for site in sites]


def parse_sites_file(file: Path, form: type[FormT]) -> FormT:
    """The file as a struct of this form. Raises SitesFileError."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), form)
    except OSError as error:
        raise SitesFileError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or not of this form: none of these texts quotes a value of a key
        raise SitesFileError(f"{file}: {error}") from None


def normalize_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Origins as browsers send them: lower case, without a slash at the end."""
    return tuple(origin.lower().rstrip("/") for origin in origins)


def _matches(pattern: str, origin: str) -> bool:
    scheme, wildcard, rest = pattern.partition("*")
    if not wildcard:
        return origin == pattern
    return origin.startswith(scheme) and origin.endswith(rest) and len(origin) > len(pattern) - 1
