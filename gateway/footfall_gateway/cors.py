"""Turns the origins of the sites into the headers that let their pages read an answer."""

import tomllib
from pathlib import Path

import msgspec

RawHeaders = list[tuple[bytes, bytes]]

_LARGEST_CACHE = 1_024
_PREFLIGHT_AGE_S = b"86400"


class SitesFileError(Exception):
    """SITES_FILE cannot be used; the text says why."""


class _Site(msgspec.Struct):
    origins: list[str] = []


class _SitesFile(msgspec.Struct):
    site: list[_Site]


def read_origins(sites_file: Path | None) -> frozenset[str] | None:
    """The origins of all sites, exact or as `https://*.shop.example`; None when there is a site that takes any.

    The union will do: which site an event may name is admission's decision, and an answer tells a page nothing but what
    became of the events it sent itself.

    Raises:
        SitesFileError: the file cannot be read, or is not what it should be.

    """
    if sites_file is None:
        return None
    try:
        sites = msgspec.convert(tomllib.loads(sites_file.read_text(encoding="utf-8")), _SitesFile).site
    except OSError as error:
        raise SitesFileError(f"SITES_FILE: {sites_file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or not of this form; none of these texts quotes a key
        raise SitesFileError(f"SITES_FILE: {sites_file}: {error}") from None
    if not all(site.origins for site in sites):
        return None
    return frozenset(origin.rstrip("/").lower() for site in sites for origin in site.origins)


class Cors:
    """Answers to the `Origin` header. Never with credentials: the beacon knows no cookie."""

    def __init__(self, origins: frozenset[str] | None) -> None:
        self._origins = origins
        self._cache: dict[bytes, RawHeaders] = {}

    def headers(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to a page of this origin; it is not named when it may not read it."""
        cached = self._cache.get(origin)
        if cached is None:
            if len(self._cache) >= _LARGEST_CACHE:
                self._cache.clear()
            allowed = [(b"access-control-allow-origin", origin)] if self._is_allowed(origin) else []
            cached = self._cache[origin] = [*allowed, (b"vary", b"origin")]
        return cached

    def preflight(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to OPTIONS."""
        return [
            *self.headers(origin),
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", b"content-type"),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
        ]

    def _is_allowed(self, origin: bytes) -> bool:
        if self._origins is None:
            return bool(origin)
        text = origin.decode("latin-1").lower()
        scheme, _, host = text.partition("://")
        # For https://a.b.shop.example: itself, https://*.b.shop.example, https://*.shop.example, https://*.example
        labels = host.split(".")
        wildcards = (f"{scheme}://*.{'.'.join(labels[number:])}" for number in range(1, len(labels)))
        return text in self._origins or any(wildcard in self._origins for wildcard in wildcards)
