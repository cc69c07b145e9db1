"""CORS headers: which pages may read the response to a beacon."""

import re

from footfall_eventlog.sites import Site, Sites

RawHeaders = list[tuple[bytes, bytes]]

MAX_ORIGIN_LENGTH = 512
"""Longer than any origin of a browser: a host name has at most 253 characters."""

_ORIGIN = re.compile(rb"[!-~]{1,%d}" % MAX_ORIGIN_LENGTH)
_MAX_CACHED = 1_024
_VARY: RawHeaders = [(b"vary", b"origin")]


class Cors:
    """CORS headers by `Origin`, without credentials: a beacon needs no cookie."""

    def __init__(self, sites: Sites[Site]) -> None:
        self._sites = sites
        self._cache: dict[bytes, RawHeaders] = {}
        self._changes = sites.changes

    def headers(self, origin: bytes) -> RawHeaders:
        """The headers of a response to a page of this origin, which is named only when the page may read it."""
        if self._changes != self._sites.changes:
            self._cache.clear()
            self._changes = self._sites.changes
        cached = self._cache.get(origin)
        if cached is None:
            if not _ORIGIN.fullmatch(origin):
                return _VARY
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            may_read = self._sites.may_read(origin.decode("latin-1"))
            cached = self._cache[origin] = [(b"access-control-allow-origin", origin), *_VARY] if may_read else _VARY
        return cached

    def preflight(self, origin: bytes, allowed: bytes = b"content-type, content-encoding, traceparent") -> RawHeaders:
        """The headers of a response to OPTIONS. `allowed`: the fields that a request may have."""
        return [
            *self.headers(origin),
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", b"86400"),  # a day
        ]
