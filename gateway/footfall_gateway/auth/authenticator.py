"""Authentication: the API user and API keys by the Authorization header, sessions, and limits for failed attempts."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from footfall_eventlog.keys import (
    Key,
    KeyFile,
    KeyScope,
    KeysFileError,
    fast_hash,
    key_id_of,
    matches_hash,
)
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from footfall_gateway.addresses import network
from footfall_gateway.auth.keys import is_slow_hash, matches_slow_hash
from footfall_gateway.auth.sessions import Sessions
from footfall_gateway.problem import Problem

_log = structlog.get_logger()

_CHALLENGE = 'Basic realm="Footfall", charset="UTF-8", Bearer realm="Footfall"'
_SESSION_CHALLENGE = 'Session realm="Footfall"'
"""For pages that sign in by a cookie: at `Basic` a browser would open a window of its own."""
_CACHE_S = 60.0
_MAX_CACHED = 10_000
_MAX_CONCURRENT_HASHES = 2


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated client. `sites` empty: all sites."""

    name: str
    scopes: frozenset[KeyScope]
    sites: frozenset[str] = frozenset()
    key_id: str = ""
    """Id of the API key; empty for API_USER."""
    session_id: str = ""
    """The session that has signed the client in; empty: the request has the credentials."""
    is_staff: bool = False
    """Whether events that the client stores are those of staff."""

    def require_scope(self, scope: KeyScope) -> None:
        """Raises Problem 403 when this client does not have the scope."""
        if scope not in self.scopes:
            raise Problem(403, f"this key has no scope `{scope}`; use a key that has it")

    def site_filter(self, asked: str) -> str:
        """The site to limit a list to, when the client asks for `asked`; empty: all sites that the client may see.

        Raises:
            Problem: 403, the client may not see that site; 400, it may see several and must name one.

        """
        if asked and self.sites and asked not in self.sites:
            raise Problem(403, "site: this key may not see it")
        if not asked and len(self.sites) > 1:
            raise Problem.parameter("site", "must be given, because this key may see several")
        return asked

    def site_for_writes(self, asked: str) -> str:
        """The site of an event that the client creates for `asked`; empty: the collector chooses.

        Raises as `site_filter`.
        """
        return self.site_filter(asked) or next(iter(self.sites), "")

    def require_all_sites(self) -> None:
        """Raises Problem 403 when the client is limited to sites: the resource belongs to no single site."""
        if self.sites:
            raise Problem(403, "this key is limited to sites; use a key for all sites")


EVERYBODY = Principal("everybody", frozenset(KeyScope))


class Authenticator:
    """Verifies the credentials of this deployment.

    Failed attempts are limited by address (IPv6: by /64). Verified credentials are cached for a minute, as a keyed
    digest. The limit does not apply to cached credentials, so failures of others at an address do not lock out its
    users. A change of the key file clears the cache, and an expired key is refused also while it is cached.

    Only a key of an earlier version needs a slow hash, for the first request with its token. The fast hash of the token
    is known afterwards.
    """

    def __init__(
        self,
        *,
        user: str,
        password: str,
        keys_file: Path | None,
        allows_anonymous: bool,
        has_sites_file: bool,
        max_failures_per_minute: int,
        max_queued_hashes: int,
        sessions: Sessions | None = None,
    ) -> None:
        """`user` empty: only keys are accepted. `has_sites_file`: the sites of events are checked.

        `sessions` None: each request needs the credentials.
        """
        self._sessions = sessions
        self._allows_anonymous = allows_anonymous
        self._user = user
        self._digest_key = os.urandom(32)
        self._user_secret = f"{user}:{password}"
        self._user_digest = self._digest(self._user_secret)
        self._file = KeyFile(keys_file) if keys_file else None
        self._has_sites_file = has_sites_file
        self._cached: dict[bytes, tuple[float, Principal]] = {}
        self._fast_hashes: dict[str, str] = {}
        """The fast hash of a token, by its slow hash."""
        self._hashing = asyncio.Semaphore(_MAX_CONCURRENT_HASHES)
        self._max_queued_hashes = max_queued_hashes
        self._queued_hashes = 0
        self._limit = RateLimitItemPerMinute(max_failures_per_minute)
        self._failures = FixedWindowRateLimiter(MemoryStorage())
        keys = self._keys()
        if not (self._allows_anonymous or self._user or keys):
            _log.warning("no credentials are set: the data and /api/v1 routes answer every request with 401")

    async def authenticate(self, authorization: str, address: str, token: str | None = None) -> Principal:
        """The client with the credentials in this header, or else with a session.

        `token`: of the session; empty: there is none. None: the client does not sign in by a session.

        Raises:
            Problem: 401, they are missing or wrong, or the session has ended; 429, too many attempts from this address
                have failed; 503, too many tokens wait for their slow hash, or sessions are not available.

        """
        if self._allows_anonymous:
            return EVERYBODY
        keys = self._keys()
        if not authorization:
            found = await self._session_principal(token, keys) if token else None
            if found is None:
                raise _unauthorized(by_session=token is not None)
            return found
        digest = self._digest(authorization)
        until, principal = self._cached.get(digest, (0.0, EVERYBODY))
        if time.monotonic() < until and not _has_expired(keys.get(principal.key_id)):
            return principal
        sender = network(address)
        if not await self._failures.test(self._limit, sender):
            stats = await self._failures.get_window_stats(self._limit, sender)
            retry_s = max(1, int(stats.reset_time - time.time()) + 1)
            raise Problem(429, "too many failed sign-ins from this address; try again later", retry_s=retry_s)
        found = await self._verify(authorization, keys)
        if found is None:
            await self._failures.hit(self._limit, sender)
            raise _unauthorized(by_session=token is not None)
        if len(self._cached) >= _MAX_CACHED:
            self._cached.clear()
        self._cached[digest] = (time.monotonic() + _CACHE_S, found)
        return found

    async def begin_session(self, principal: Principal) -> str:
        """Begin a session for a client that has given its credentials, and return its token; empty: it needs none.

        Raises Problem 503 while sessions are not available.
        """
        secret = self._secret(principal.key_id, self._keys())
        if self._sessions is None or self._allows_anonymous or secret is None:
            return ""
        return await self._sessions.begin(principal.key_id, secret)

    async def make_link(self, principal: Principal) -> str:
        """Make a link that begins a session once, for reading, and return its token; empty: none is needed.

        Raises Problem 403 for a client with a session, which could go on for ever by links, and 503 while sessions are
        not available.
        """
        if principal.session_id:
            raise Problem(403, "a session cannot make links: send the credentials of a user or key")
        secret = self._secret(principal.key_id, self._keys())
        if self._sessions is None or self._allows_anonymous or secret is None:
            return ""
        return await self._sessions.make_link(principal.key_id, secret)

    async def use_link(self, token: str) -> tuple[str, Principal]:
        """Begin a session by a link; return its token and the client.

        Raises:
            Problem: 404, the link has been used or has expired; 503, sessions are not available.

        """
        keys = self._keys()
        link = await self._sessions.use_link(token) if self._sessions else None
        secret = self._secret(link.key_id, keys) if link else None
        if not self._sessions or not link or secret is None or not link.is_of(secret):
            raise Problem(404, "no such link: it has been used or has expired")
        session = await self._sessions.begin(link.key_id, secret, is_reader=True)
        found = await self._session_principal(session, keys)
        if found is None:
            raise _unauthorized(by_session=True)
        return session, found

    async def continue_session(self, token: str) -> None:
        """Let a session go on, because its user is active. Raises Problem 503 while sessions are not available."""
        if self._sessions:
            await self._sessions.go_on(token)

    async def end_session(self, token: str) -> None:
        """End a session, if there is one. Raises Problem 503 while sessions are not available."""
        if self._sessions:
            await self._sessions.end(token)

    @property
    def session_idle_s(self) -> int | None:
        """How long a session goes on without its user; None: there are no sessions."""
        return self._sessions.idle_s if self._sessions and not self._allows_anonymous else None

    @property
    def link_s(self) -> int:
        """For how long a link begins a session; 0: there are no links."""
        return self._sessions.link_s if self._sessions and not self._allows_anonymous else 0

    def validity(self, principal: Principal) -> Callable[[], Awaitable[bool]]:
        """A function that returns whether a client may go on: its key is neither changed, revoked nor expired.

        A session must not have ended either. The function raises Problem 503 while sessions are not available.
        """
        key = self._keys().get(principal.key_id)

        async def is_valid() -> bool:
            if principal.session_id and not (self._sessions and await self._sessions.goes_on(principal.session_id)):
                return False
            if not principal.key_id:
                return True
            return key is not None and self._keys().get(key.id) == key and not _has_expired(key)

        return is_valid

    async def _session_principal(self, token: str, keys: dict[str, Key]) -> Principal | None:
        session = await self._sessions.find(token) if self._sessions else None
        secret = self._secret(session.key_id, keys) if session else None
        if not session or secret is None or not session.is_of(secret):
            return None
        if not session.key_id:
            found = Principal(self._user, frozenset(KeyScope), session_id=session.id)
        else:
            found = _holder_of(keys[session.key_id], session.id)
        return replace(found, scopes=found.scopes & {KeyScope.READ}) if session.is_reader else found

    def _secret(self, key_id: str, keys: dict[str, Key]) -> str | None:
        """What only the holders of a credential and this gateway know; None: the credential is not valid."""
        if not key_id:
            return self._user_secret if self._user else None
        key = keys.get(key_id)
        return None if key is None or _has_expired(key) else key.hash

    async def _verify(self, authorization: str, keys: dict[str, Key]) -> Principal | None:
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return await self._key_principal(credentials.strip(), keys)
            case "basic":
                pair = _basic(credentials.strip())
                # Digests have one length, so the time of the comparison does not disclose that of the password.
                if self._user and hmac.compare_digest(self._digest(pair), self._user_digest):
                    return Principal(self._user, frozenset(KeyScope))
                # Clients of GWE 8.5 support Basic only: they send the token as the password of any user.
                return await self._key_principal(pair.partition(":")[2], keys)
            case _:
                return None

    async def _key_principal(self, token: str, keys: dict[str, Key]) -> Principal | None:
        key = keys.get(key_id_of(token) or "")
        if key is None:
            return None
        kept = self._fast_hashes.get(key.hash, key.hash)
        is_proven = await self._matches_slow_hash(kept, token) if is_slow_hash(kept) else matches_hash(kept, token)
        # The key may have been revoked during the hash, after the cache was cleared.
        if not is_proven or self._keys().get(key.id) != key or _has_expired(key):
            return None
        return _holder_of(key)

    async def _matches_slow_hash(self, kept: str, token: str) -> bool:
        if self._queued_hashes >= self._max_queued_hashes:
            raise Problem(503, "too many sign-ins with old keys are waiting; try again, or rotate the key", retry_s=1)
        self._queued_hashes += 1
        try:
            async with self._hashing:
                is_proven = await asyncio.to_thread(matches_slow_hash, kept, token)
        finally:
            self._queued_hashes -= 1
        if is_proven:
            self._fast_hashes[kept] = fast_hash(token)
        return is_proven

    def _keys(self) -> dict[str, Key]:
        if self._file is None:
            return {}
        try:
            keys, is_changed = self._file.read()
        except KeysFileError as error:
            _log.error("the key file cannot be used; no key is valid", reason=str(error))
            keys, is_changed = {}, True
        if is_changed:
            self._cached.clear()
            self._fast_hashes.clear()
            _log.info("key file read", valid=sorted(keys))
            if not self._has_sites_file and any(key.sites for key in keys.values()):
                _log.warning("keys are limited to sites, but without SITES_FILE any page can send events as any site")
        return keys

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._digest_key, text.encode(), hashlib.sha256)


def _has_expired(key: Key | None) -> bool:
    return key is not None and key.has_expired(time.time() * 1000)


def _holder_of(key: Key, session_id: str = "") -> Principal:
    """The client that has signed in with a key, in this request or by a session."""
    return Principal(key.name, frozenset(key.scopes), frozenset(key.sites), key.id, session_id, key.staff)


def _unauthorized(*, by_session: bool) -> Problem:
    challenge = _SESSION_CHALLENGE if by_session else _CHALLENGE
    return Problem(401, "unknown user, password or API key, or the session has ended", www_authenticate=challenge)


def _basic(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
