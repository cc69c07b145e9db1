"""Turns the Authorization header into who is asking and what they may do."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from footfall_gateway.addresses import network
from footfall_gateway.auth.keys import (
    Key,
    KeyFile,
    KeysFileError,
    Scope,
    fast_hash,
    id_in,
    is_proof,
    is_slow,
    is_slow_proof,
)
from footfall_gateway.problem import Problem

_log = structlog.get_logger()

_CHALLENGE = 'Basic realm="Footfall", charset="UTF-8", Bearer realm="Footfall"'
_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 10_000
_SLOW_HASHES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `sites` empty: all of them."""

    name: str
    scopes: frozenset[Scope]
    sites: frozenset[str] = frozenset()
    key_id: str = ""
    """Of the key it came with; empty for API_USER."""

    def must_hold(self, scope: Scope) -> None:
        """Raises Problem 403 when this client may not do that."""
        if scope not in self.scopes:
            raise Problem(403, f"this key has no scope `{scope}`")

    def filter(self, asked: str) -> str:
        """The site to limit a list to, when a client asks for `asked`; empty: all that it may see.

        Raises:
            Problem: 403, it may not see that site; 400, it must say which of several.

        """
        if asked and self.sites and asked not in self.sites:
            raise Problem(403, "site: this key may not see it")
        if not asked and len(self.sites) > 1:
            raise Problem.parameter("site", "must be given, because this key may see several")
        return asked

    def site(self, asked: str) -> str:
        """The site of what a client creates, when it says `asked`; empty: as admission decides. Raises as `filter`."""
        return self.filter(asked) or next(iter(self.sites), "")

    def must_see_all(self) -> None:
        """Raises Problem 403 when this client is limited to sites: what it asks for belongs to none."""
        if self.sites:
            raise Problem(403, "this key is limited to sites")


EVERYBODY = Principal("everybody", frozenset(Scope))


class Authenticator:
    """Knows the credentials of this deployment.

    Failed attempts are limited by address, of IPv6 by /64. A credential once verified is remembered for a minute by a
    keyed digest, and is not limited meanwhile, so that nobody who is at work is locked out by a neighbour's failures;
    a change of the file of keys forgets all at once, and a key that expires ends then.

    Only keys of earlier versions cost a slow hash, until their token has come once: from then on its fast hash is
    known, and what is not that token is refused at once.
    """

    def __init__(
        self,
        *,
        user: str,
        password: str,
        keys_file: Path | None,
        is_open: bool,
        has_walls: bool,
        failures_per_minute: int,
        slow_hashes_waiting: int,
    ) -> None:
        """`user` empty: only keys count. `is_open`: nobody needs any. `has_walls`: sites are told apart."""
        self._is_open = is_open
        self._user = user
        self._digest_key = os.urandom(32)
        self._user_digest = self._digest(f"{user}:{password}")
        self._file = KeyFile(keys_file) if keys_file else None
        self._has_walls = has_walls
        self._remembered: dict[bytes, tuple[float, Principal]] = {}
        self._fast_hashes: dict[str, str] = {}
        """By slow hash."""
        self._hashing = asyncio.Semaphore(_SLOW_HASHES_AT_ONCE)
        self._most_hashing = slow_hashes_waiting
        self._waiting = 0
        self._limit = RateLimitItemPerMinute(failures_per_minute)
        self._failures = FixedWindowRateLimiter(MemoryStorage())
        keys = self._keys()
        if not (self._is_open or self._user or keys):
            _log.warning("no credentials are set: the data and /api/v1 routes answer 401 to everybody")

    async def authenticate(self, authorization: str, address: str) -> Principal:
        """Who holds the credentials in this header.

        Raises:
            Problem: 401, they are missing or wrong; 429, too many attempts from this address have failed; 503, too many
                tokens wait for their slow hash.

        """
        if self._is_open:
            return EVERYBODY
        keys = self._keys()
        if not authorization:
            raise _refusal()
        digest = self._digest(authorization)
        until, principal = self._remembered.get(digest, (0.0, EVERYBODY))
        if time.monotonic() < until and not _has_expired(keys.get(principal.key_id)):
            return principal
        sender = network(address)
        if not await self._failures.test(self._limit, sender):
            stats = await self._failures.get_window_stats(self._limit, sender)
            raise Problem(429, "too many failed attempts", retry_s=max(1, int(stats.reset_time - time.time()) + 1))
        found = await self._verified(authorization, keys)
        if found is None:
            await self._failures.hit(self._limit, sender)
            raise _refusal()
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = (time.monotonic() + _REMEMBERED_S, found)
        return found

    def standing(self, principal: Principal) -> Callable[[], bool]:
        """What tells from now on whether the key a client came with still holds: nobody has changed or revoked it."""
        key = self._keys().get(principal.key_id)

        def holds() -> bool:
            if not principal.key_id:
                return True
            return key is not None and self._keys().get(key.id) == key and not _has_expired(key)

        return holds

    async def _verified(self, authorization: str, keys: dict[str, Key]) -> Principal | None:
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return await self._of_key(credentials.strip(), keys)
            case "basic":
                pair = _basic(credentials.strip())
                # Digests have one length: the comparison does not tell how long the password is.
                if self._user and hmac.compare_digest(self._digest(pair), self._user_digest):
                    return Principal(self._user, frozenset(Scope))
                # Clients of the original speak only Basic: the token is the password, the user is theirs to choose.
                return await self._of_key(pair.partition(":")[2], keys)
            case _:
                return None

    async def _of_key(self, token: str, keys: dict[str, Key]) -> Principal | None:
        key = keys.get(id_in(token) or "")
        if key is None:
            return None
        kept = self._fast_hashes.get(key.hash, key.hash)
        is_proven = await self._is_slow_proof(kept, token) if is_slow(kept) else is_proof(kept, token)
        # Meanwhile it may have been revoked, and whoever noticed has forgotten it already.
        if not is_proven or self._keys().get(key.id) != key or _has_expired(key):
            return None
        return Principal(key.name, frozenset(key.scopes), frozenset(key.sites), key.id)

    async def _is_slow_proof(self, kept: str, token: str) -> bool:
        if self._waiting >= self._most_hashing:
            raise Problem(503, "too many tokens of old keys at once", retry_s=1)
        self._waiting += 1
        try:
            async with self._hashing:
                is_proven = await asyncio.to_thread(is_slow_proof, kept, token)
        finally:
            self._waiting -= 1
        if is_proven:
            self._fast_hashes[kept] = fast_hash(token)
        return is_proven

    def _keys(self) -> dict[str, Key]:
        if self._file is None:
            return {}
        try:
            keys, is_changed = self._file.read()
        except KeysFileError as error:
            _log.error("the file of keys cannot be used; no key is valid", reason=str(error))
            keys, is_changed = {}, True
        if is_changed:
            self._remembered.clear()
            self._fast_hashes.clear()
            _log.info("keys read", valid=sorted(keys))
            if not self._has_walls and any(key.sites for key in keys.values()):
                _log.warning("keys are limited to sites, but without SITES_FILE anybody may call themselves any site")
        return keys

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._digest_key, text.encode(), hashlib.sha256)


def _has_expired(key: Key | None) -> bool:
    return key is not None and key.has_expired(time.time() * 1000)


def _refusal() -> Problem:
    return Problem(401, "credentials are missing or wrong", www_authenticate=_CHALLENGE)


def _basic(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
