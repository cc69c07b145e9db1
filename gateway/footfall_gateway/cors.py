"""Turns the origins of the sites into the headers that let their pages read an answer."""

import tomllib
from pathlib import Path

RawHeaders = list[tuple[bytes, bytes]]

_LARGEST_CACHE = 1_024
_PREFLIGHT_AGE_S = b"86400"


class SitesFileError(Exception):
    """SITES_FILE cannot be used; the text says why."""


def read_origins(sites_file: Path | None) -> frozenset[str] | None:
    """The origins of all sites; None when there is a site that does not limit them.

    The union will do: which site an event may name is admission's decision, and an answer tells a page nothing but what
    became of the events it sent itself.

    Raises:
        SitesFileError: the file cannot be read, or is not what it should be.

    """
    if sites_file is None:
        return None
    try:
        sites = tomllib.loads(sites_file.read_text(encoding="utf-8"))["site"]
        limits = [site.get("origins", []) for site in sites]
        origins = [origin.rstrip("/").lower() for limit in limits for origin in limit]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError) as error:
        raise SitesFileError(f"SITES_FILE: {sites_file}: {type(error).__name__}: {error}") from error
    return frozenset(origins) if all(limits) else None


class Cors:
    """Answers to the `Origin` header. Never with credentials: the beacon knows no cookie."""

    def __init__(self, origins: frozenset[str] | None) -> None:
        self._origins = origins
        self._cache: dict[bytes, RawHeaders] = {}

    def headers(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to a page of this origin; none when it is not allowed to read it."""
        cached = self._cache.get(origin)
        if cached is None:
            if len(self._cache) >= _LARGEST_CACHE:
                self._cache.clear()
            cached = self._cache[origin] = self._make(origin)
        return cached

    def preflight(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to OPTIONS."""
        allowed = self.headers(origin)
        if len(allowed) < 2:
            return allowed
        return [
            *allowed,
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", b"content-type"),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
        ]

    def _make(self, origin: bytes) -> RawHeaders:
        vary = (b"vary", b"origin")
        if not origin or (self._origins is not None and origin.decode("latin-1").lower() not in self._origins):
            return [vary]
        return [(b"access-control-allow-origin", origin), vary]
