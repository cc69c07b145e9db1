"""Turns SITES_FILE into which pages may read answers, and into whose events a beacon brings."""

import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

DEFAULT_SITE = "default"

_LONGEST_REMEMBERED = 512  # what is longer is no origin, and may come from anybody


class SitesFileError(ValueError):
    """SITES_FILE cannot be used; the text says why."""


class Site(msgspec.Struct, frozen=True):
    """A website. `origins` are exact or as `https://*.shop.example`; none: pages of any origin."""

    name: str
    origins: tuple[str, ...] = ()

    def has(self, origin: str) -> bool:
        """Whether pages of this origin are its own."""
        return any(pattern in self.origins for pattern in patterns(origin))


class _SitesFile(msgspec.Struct):
    site: list[Site]


class Sites:
    """The sites of a deployment; without a file, a site is whatever calls itself one."""

    def __init__(self, sites_file: Path | None = None) -> None:
        """Read the file. Raises SitesFileError when it cannot be read, or is not what it should be."""
        self._sites = {site.name: site for site in _read(sites_file)} if sites_file else {}
        self._known = lru_cache(maxsize=4_096)(self._find)

    def may_read(self, origin: str) -> bool:
        """Whether pages of this origin may read an answer.

        Those of all sites may: which site an event may name is admission's decision, and an answer tells a page nothing
        but what became of the events it sent itself.
        """
        sites = self._sites.values()
        return not sites or any(not site.origins or site.has(origin) for site in sites)

    def find(self, name: str, origin: str) -> str:
        """The site of an event that names `name`, or none (""), from a page of `origin`, or no page ("").

        As admission in the collector decides it; "" for what it will refuse.
        """
        return self._known(name, origin) if len(name) + len(origin) <= _LONGEST_REMEMBERED else ""

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
    except ValueError as error:  # not UTF-8, not TOML, or not of this form; none of these texts quotes a key
        raise SitesFileError(f"{sites_file}: {error}") from None
    return [Site(site.name, tuple(origin.rstrip("/").lower() for origin in site.origins)) for site in sites]


def patterns(origin: str) -> Iterator[str]:
    """How SITES_FILE may name an origin.

    For https://a.b.shop.example: itself, https://*.b.shop.example, https://*.shop.example, https://*.example.
    """
    origin = origin.lower()
    yield origin
    scheme, _, host = origin.partition("://")
    labels = host.split(".")
    for number in range(1, len(labels)):
        yield f"{scheme}://*.{'.'.join(labels[number:])}"
