"""Client of a History REST API with a limited rate and retries."""

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import httpx

_TIMEOUT_S: Final = 60.0
_MAX_PAUSE_S: Final = 60.0
_NOT_FOUND: Final = {404, 405, 410, 501}
_REFUSED: Final = {401, 403}
_BUSY: Final = 429
_PATHS: Final = ("/server/data", "/backend/data")

Query = Mapping[str, str | int]
NO_QUERY: Final[Query] = MappingProxyType({})


class StoppedError(Exception):
    """The command cannot continue. The message says why, and what to do."""


class Answer(NamedTuple):
    """A body (empty if there is no content) and the cursor of the next page (empty on the last page)."""

    body: bytes
    next: str


class RestClient:
    """A History REST API, used with one user's credentials. Use it as a context manager."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, ca: Path | None = None, rate: float = 50.0, attempts: int = 10
    ) -> None:
        """`rate`: requests per second. A request is made up to `attempts` times, with growing pauses.

        Raises StoppedError for a malformed URL, a URL with credentials, and a `ca` file that cannot be used.
        """
        scheme, host, *_ = urlsplit(url)
        if scheme not in {"http", "https"} or not host:
            raise StoppedError(f"{url}: must begin with https:// or http:// and a host")
        if "@" in host:
            raise StoppedError("The URL must not contain credentials, since others can see it. Put them into a file.")
        url = url.rstrip("/")
        self.url = url if url.endswith(_PATHS) else url + _PATHS[0]
        self._gap_s = 1 / rate
        self._attempts = attempts
        self._free_at = 0.0
        try:
            verify = ssl.create_default_context(cafile=ca) if ca else True
        except OSError as error:  # SSLError is one
            raise StoppedError(f"{ca}: cannot be used as certificate authorities: {error.strerror or error}") from None
        self._client = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S, verify=verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def api_v1_url(self) -> str:
        """The URL of Footfall's own API on the same server."""
        return self.url.rsplit("/", 2)[0] + "/api/v1"

    async def get(self, path: str, query: Query = NO_QUERY, *, base: str = "") -> Answer | None:
        """The answer to a GET request; None if there is no such resource. `path` must be URL-encoded.

        Raises StoppedError if the server refuses the credentials or the request, or after the last attempt.
        """
        url, problem = (base or self.url) + path, ""
        for attempt in range(self._attempts):
            await self._wait_for_turn()
            try:
                response = await self._client.get(url, params=dict(query))
            except httpx.TransportError as error:
                problem, pause_s = f"it does not answer ({str(error) or type(error).__name__})", 0.0
            else:
                status = response.status_code
                if status in _NOT_FOUND:
                    return None
                if status in _REFUSED:
                    raise StoppedError(
                        f"{self.url} refuses these credentials, or they do not permit reading ({status})"
                    )
                if response.is_success:
                    return Answer(response.content, response.headers.get("Paging-Next", ""))
                if status < 500 and status != _BUSY:
                    raise StoppedError(f"{self.url} refuses a request with status {status}: {path.split('/')[1]}")
                problem, pause_s = f"it answers {status}", _seconds(response.headers.get("Retry-After", ""))
            if attempt + 1 < self._attempts:
                await asyncio.sleep(min(max(pause_s, 0.5 * 2**attempt), _MAX_PAUSE_S))
        raise StoppedError(f"{self.url}: {problem}, after {self._attempts} attempts. Run the command again later.")

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        turn_at = max(now, self._free_at)
        self._free_at = turn_at + self._gap_s
        await asyncio.sleep(turn_at - now)


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def read_credentials(file: Path | None) -> dict[str, str]:
    """The Authorization header from a file with `user:password` or `Bearer KEY`. Raises StoppedError."""
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoppedError(f"{file}: cannot be read ({type(error).__name__})") from None
    if not text.startswith("Bearer "):
        if ":" not in text:
            raise StoppedError(f"{file}: must contain user:password or Bearer KEY")
        text = f"Basic {b64encode(text.encode()).decode()}"
    return {"Authorization": text}
