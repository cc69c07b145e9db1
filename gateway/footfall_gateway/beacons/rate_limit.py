"""Rate limits per address and site, shared by gateways through Redis.

A beacon never waits for Redis. Each gateway counts by itself. Once a second it adds the counts of heavy senders to
shared counters in Redis, which show who has used up the minute at all gateways together. Without Redis each gateway
counts alone.
"""

import math
import time

import structlog
from footfall_eventlog.partitions import connection_pool
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from footfall_gateway.addresses import network
from footfall_gateway.problem import Problem

_WINDOW_S = 60.0
SHARE_EVERY_S = 1.0
_SHARED_FRACTION = 1 / 10
"""A sender that has used this part of its limit at one gateway is shared with the others."""
_MAX_COUNTED = 200_000

_log = structlog.get_logger()


class MinuteLimit:
    """Amounts of the current minute, by sender. `per_minute` 0: no limit. `name`: unique among the shared limits."""

    def __init__(self, name: str, per_minute: int) -> None:
        self._name = name
        self._limit = per_minute
        self._item = RateLimitItemPerMinute(max(1, per_minute))
        self._window_end = time.monotonic() + _WINDOW_S
        self._used: dict[str, int] = {}
        self._shared: dict[str, int] = {}
        self._refused_until: dict[str, float] = {}

    def __bool__(self) -> bool:
        return self._limit > 0

    def wait_s(self, key: str, amount: int) -> int:
        """Seconds until this sender may send `amount`; 0: now. An amount beyond the limit of a minute never fits."""
        if not self._limit:
            return 0
        now = time.monotonic()
        self._begin_minute_if_due(now)
        until = self._refused_until.get(key, 0.0)
        if until <= now:
            if self._used.get(key, 0) + amount <= self._limit:
                return 0
            until = self._window_end
        return max(1, math.ceil(until - now))

    def add(self, key: str, amount: int) -> None:
        """Count an amount."""
        if self._limit:
            self._used[key] = self._used.get(key, 0) + amount

    async def share(self, strategy: FixedWindowRateLimiter) -> None:
        """Add the new amounts of heavy senders to the shared counters. Raises StorageError."""
        near = self._limit * _SHARED_FRACTION
        for key, used in [*self._used.items()]:
            unshared = used - self._shared.get(key, 0)
            if used < near or not unshared:
                continue
            self._shared[key] = used
            if not await strategy.hit(self._item, self._name, key, cost=unshared):
                stats = await strategy.get_window_stats(self._item, self._name, key)
                self._refused_until[key] = time.monotonic() + max(0.0, stats.reset_time - time.time())

    def _begin_minute_if_due(self, now: float) -> None:
        """Begin a new minute when it is time, or when there are too many counts."""
        if now >= self._window_end or len(self._used) > _MAX_COUNTED:
            self._window_end = now + _WINDOW_S
            self._used.clear()
            self._shared.clear()
            self._refused_until = {key: until for key, until in self._refused_until.items() if until > now}


class Limits:
    """The limits of addresses or of sites: events, and bytes of their beacons."""

    def __init__(self, name: str, events: int, size: int) -> None:
        self.events = MinuteLimit(name, events)
        self.size = MinuteLimit(f"{name}-bytes", size)

    def __bool__(self) -> bool:
        return bool(self.events) or bool(self.size)

    def wait_s(self, key: str, events: int, size: int) -> int:
        """Seconds until this sender may send so many events and bytes; 0: now."""
        return max(self.events.wait_s(key, events), self.size.wait_s(key, size))

    def add(self, key: str, events: int, size: int) -> None:
        """Count events and bytes."""
        self.events.add(key, events)
        self.size.add(key, size)


class RateLimiter:
    """The rate limits of this deployment. Loopback addresses are exempt unless `includes_loopback`."""

    def __init__(
        self,
        addresses: Limits,
        sites: Limits,
        redis_url: str,
        *,
        includes_loopback: bool = False,
        link_memory_s: int = 600,
    ) -> None:
        self._addresses = addresses
        self._has_address_limits = bool(addresses)
        self._one_use = RateLimitItemPerSecond(1, link_memory_s)
        self.sites = sites
        self._includes_loopback = includes_loopback
        # The braces put all counts into one slot of a Redis Cluster, so that one client can reach them.
        self._pool = connection_pool(redis_url, "{rate}", timeout_ms=int(SHARE_EVERY_S * 1000))
        storage = RedisStorage(
            f"async+{redis_url}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="{rate}",
            connection_pool=self._pool,  # type: ignore[arg-type]  # typed in its docstring only
        )
        self._strategy = FixedWindowRateLimiter(storage)
        self._is_redis_down = False

    def wait_s(self, address: str, events: int, size: int) -> int:
        """Seconds until this address may send so many events and bytes; 0: now."""
        return self._addresses.wait_s(network(address), events, size) if self._is_limited(address) else 0

    def check(self, address: str, events: int, size: int) -> None:
        """Count nothing. Raises Problem 429 when so many events and bytes are beyond the limit of an address."""
        if wait_s := self.wait_s(address, events, size):
            raise Problem(429, "too many events or bytes from this address; try again later", retry_s=wait_s)

    def admit(self, address: str, events: int, size: int) -> None:
        """Count what an address sends, valid or not. Raises Problem 429, and counts nothing, beyond the limit."""
        self.check(address, events, size)
        self.add(address, events, size)

    def add(self, address: str, events: int, size: int) -> None:
        """Count events and bytes of an address."""
        if self._is_limited(address):
            self._addresses.add(network(address), events, size)

    def _is_limited(self, address: str) -> bool:
        return self._has_address_limits and (self._includes_loopback or not _is_loopback(address))

    async def share(self) -> None:
        """Exchange counts with the other gateways. To be called periodically."""
        try:
            for limits in (self._addresses, self.sites):
                for limit in (limits.events, limits.size):
                    await limit.share(self._strategy)
        except StorageError as error:
            if not self._is_redis_down:
                _log.warning("rate limits are not shared", reason=type(error.storage_error).__qualname__)
            self._is_redis_down = True
        else:
            self._is_redis_down = False

    async def is_first_use(self, link: str) -> bool:
        """Whether a link was not used recently at any gateway. False when Redis is unavailable."""
        try:
            return await self._strategy.hit(self._one_use, "link", link)
        except StorageError:
            return False

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._pool.aclose()


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address in {"::1", ""}
