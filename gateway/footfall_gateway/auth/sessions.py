"""Sessions of people at the console: a cookie or a header has a random token, and Redis the hash and a proof for it.

All gateways share the sessions. Redis has the hash of a token, which signs in at no gateway. The proof is keyed by the
token, and is of the secret of the credential. So a writer of Redis who does not know that secret cannot make a session
(docs/adr/0040). A link that begins a session once, and only for reading, is stored in the same way (docs/adr/0046).
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from footfall_eventlog.partitions import connection_pool
from footfall_servicekit.failure_log import FailureLog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from footfall_gateway.problem import Problem

SESSION_HEADER: Final = "X-Footfall-Session"
"""A request with this header signs in by the token in it, or else by its cookie. Pages of other origins cannot send
it."""
SESSION_COOKIE: Final = "footfall_session"

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_TAG: Final = "{session}"
"""In the name of every key, so that all are in one slot of a Redis Cluster."""
_ENDS: Final = f"{_TAG}:ends"
"""The sorted set of all sessions, by the time at which they end."""
_TIMEOUT_MS: Final = 1_000
_ASK_AGAIN_S: Final = 5
"""How long a stream goes on without asking Redis whether its session does."""

_unavailable = FailureLog("Redis does not answer", "store")

Answer = TypeVar("Answer")


class _Record(msgspec.Struct, frozen=True):
    """A session or a link as stored. `key_id` empty: of API_USER. `is_reader`: it allows nothing but reading."""

    key_id: str
    proof: str
    last_ms: int
    """When the session ends at the latest."""
    is_reader: bool = False


class Session(NamedTuple):
    """A session that goes on, or a link: its name in Redis, and the credential that it was begun with."""

    id: str
    key_id: str
    token: str
    proof: str
    is_reader: bool

    def is_of(self, secret: str) -> bool:
        """Whether it was begun with the credential that has this secret."""
        return hmac.compare_digest(self.proof, _proof(self.token, secret, is_reader=self.is_reader))


def session_token(headers: Mapping[str, str]) -> str | None:
    """The token in the header or cookie of a request; empty: there is none. None: the request does not sign in by one.

    `headers` have names in lower case.
    """
    given = headers.get(SESSION_HEADER.lower())
    if given is None:
        return None
    if _TOKEN.fullmatch(given):
        return given
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(SESSION_COOKIE)
    except CookieError:
        return ""
    return found.value if found and _TOKEN.fullmatch(found.value) else ""


def session_cookie(token: str, *, is_secure: bool) -> str:
    """The `Set-Cookie` of a session; with an empty token it removes the cookie. It ends with the browser."""
    age = "" if token else "; Max-Age=0"
    secure = "; Secure" if is_secure else ""
    return f"{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict{age}{secure}"


class Sessions:
    """The sessions of this deployment. All methods raise Problem 503 while Redis does not answer."""

    def __init__(self, redis_url: str, *, idle_s: int, longest_s: int, most: int, link_s: int) -> None:
        """`idle_s`: a session ends so long after it was continued, and in any case after `longest_s`.

        At `most` sessions, the one that would end first makes room for a new one. A link begins a session for `link_s`.
        """
        self.idle_s = idle_s
        self.link_s = link_s
        self._longest_ms = longest_s * 1000
        self._most = most
        # Commands of redis-py are typed as sync or async together.
        self._redis: Any = Redis.from_pool(connection_pool(redis_url, _TAG, timeout_ms=_TIMEOUT_MS))
        self._ask_at: dict[str, float] = {}
        """When Redis is to be asked again about a session that has a stream, by the clock of `monotonic`."""

    async def begin(self, key_id: str, secret: str, *, is_reader: bool = False) -> str:
        """Begin a session with a credential, and return its token. `is_reader`: it allows nothing but reading."""
        token = secrets.token_urlsafe(32)
        session_id = _id(token)
        now_ms = _now_ms()
        record = _Record(key_id, _proof(token, secret, is_reader=is_reader), now_ms + self._longest_ms, is_reader)
        await self._ask(self._redis.set(_key(session_id), msgspec.json.encode(record), px=self.idle_s * 1000))
        await self._note_end(session_id, now_ms + self.idle_s * 1000)
        await self._ask(self._redis.zremrangebyscore(_ENDS, 0, now_ms))
        surplus = await self._ask(self._redis.zcard(_ENDS)) - self._most
        if surplus > 0:
            for first, _ in await self._ask(self._redis.zpopmin(_ENDS, surplus)):
                await self._forget(first.decode())
        return token

    async def find(self, token: str) -> Session | None:
        """The session of a token; None: it has ended, or there was none."""
        session_id = _id(token)
        raw = await self._ask(self._redis.get(_key(session_id)))
        if raw is None:
            return None
        record = msgspec.json.decode(raw, type=_Record)
        return Session(session_id, record.key_id, token, record.proof, record.is_reader)

    async def make_link(self, key_id: str, secret: str) -> str:
        """Make a link with a credential, and return its token."""
        token = secrets.token_urlsafe(32)
        record = _Record(key_id, _proof(token, secret, is_reader=True), _now_ms() + self.link_s * 1000, is_reader=True)
        await self._ask(self._redis.set(_link_key(_id(token)), msgspec.json.encode(record), px=self.link_s * 1000))
        return token

    async def use_link(self, token: str) -> Session | None:
        """Use a link up; None: it has been used or has expired, or there was none."""
        key = _link_key(_id(token))
        raw = await self._ask(self._redis.get(key))
        if raw is None or not await self._ask(self._redis.delete(key)):  # 0: another request has used it
            return None
        record = msgspec.json.decode(raw, type=_Record)
        return Session(_id(token), record.key_id, token, record.proof, record.is_reader)

    async def go_on(self, token: str) -> None:
        """Let a session go on, because its user is active. Does nothing if it has ended."""
        session_id = _id(token)
        raw = await self._ask(self._redis.get(_key(session_id)))
        if raw is None:
            return
        end_ms = min(_now_ms() + self.idle_s * 1000, msgspec.json.decode(raw, type=_Record).last_ms)
        if await self._ask(self._redis.pexpireat(_key(session_id), end_ms)):
            await self._note_end(session_id, end_ms)

    async def end(self, token: str) -> None:
        """End a session at all gateways. Does nothing if there is none."""
        await self._ask(self._redis.zrem(_ENDS, _id(token)))
        await self._forget(_id(token))

    async def goes_on(self, session_id: str) -> bool:
        """Whether a session has not ended at any gateway. It is for streams: Redis is asked every few seconds."""
        now_s = time.monotonic()
        if now_s < self._ask_at.get(session_id, 0):
            return True
        if not await self._ask(self._redis.exists(_key(session_id))):
            return False
        if len(self._ask_at) >= self._most:
            self._ask_at.clear()
        self._ask_at[session_id] = now_s + _ASK_AGAIN_S
        return True

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()

    async def _note_end(self, session_id: str, end_ms: int) -> None:
        await self._ask(self._redis.zadd(_ENDS, {session_id: end_ms}))
        await self._ask(self._redis.pexpire(_ENDS, self.idle_s * 1000))

    async def _forget(self, session_id: str) -> None:
        await self._ask(self._redis.delete(_key(session_id)))
        self._ask_at.pop(session_id, None)

    async def _ask(self, command: Awaitable[Answer]) -> Answer:
        try:
            answer = await command
        except (TimeoutError, RedisError) as error:
            _unavailable.failed("Redis", error=type(error).__name__)
            raise Problem(
                503, "sessions are not available, because Redis does not answer; try again", retry_s=2
            ) from error
        _unavailable.worked("Redis")
        return answer


def _id(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _key(session_id: str) -> str:
    return f"{_TAG}:{session_id}"


def _link_key(link_id: str) -> str:
    return f"{_TAG}:link:{link_id}"


def _proof(token: str, secret: str, *, is_reader: bool) -> str:
    proven = f"reader:{secret}" if is_reader else secret  # so that a writer of Redis makes no more of it
    return hmac.digest(token.encode(), proven.encode(), hashlib.sha256).hex()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
