"""Turns the `Origin` header into the headers that let a site's pages read an answer."""

import re

from footfall_eventlog.sites import Site, Sites

RawHeaders = list[tuple[bytes, bytes]]

LONGEST_ORIGIN = 512
"""No browser's is longer: a host name has at most 253 characters."""

_ORIGIN = re.compile(rb"[!-~]{1,%d}" % LONGEST_ORIGIN)
_LARGEST_CACHE = 1_024
_PREFLIGHT_AGE_S = b"86400"
_UNNAMED: RawHeaders = [(b"vary", b"origin")]


class Cors:
    """Answers to the `Origin` header. Never with credentials: the beacon knows no cookie."""

    def __init__(self, sites: Sites[Site]) -> None:
        self._sites = sites
        self._cache: dict[bytes, RawHeaders] = {}

    def headers(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to a page of this origin; it is not named when it may not read it."""
        cached = self._cache.get(origin)
        if cached is None:
            if not _ORIGIN.fullmatch(origin):
                return _UNNAMED
            if len(self._cache) >= _LARGEST_CACHE:
                self._cache.clear()
            is_named = self._sites.may_read(origin.decode("latin-1"))
            cached = self._cache[origin] = (
                [(b"access-control-allow-origin", origin), *_UNNAMED] if is_named else _UNNAMED
            )
        return cached

    def preflight(self, origin: bytes) -> RawHeaders:
        """The headers of an answer to OPTIONS."""
        return [
            *self.headers(origin),
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", b"content-type"),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
        ]
