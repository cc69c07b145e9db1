"""Turns items that wait at the same time into groups that leave together. Knows neither HTTP nor gRPC."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class FullError(Exception):
    """So much is waiting that no more is taken. The item was not."""


class LostError(Exception):
    """A group was under way and did not come to its end. What became of the item nobody knows."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a group grows, how long it waits, and how much may wait and be under way.

    `count` and `size` are the caller's measures of an item; here events and bytes.
    """

    group_count: int
    group_size: int
    linger_ms: float
    groups_in_flight: int
    waiting_count: int
    waiting_size: int


@dataclass(slots=True)
class _Group(Generic[Item, Outcome]):
    items: list[Item] = field(default_factory=list)
    waiters: list[asyncio.Future[Outcome]] = field(default_factory=list)
    count: int = 0
    size: int = 0


class GroupCommit(Generic[Item, Outcome]):
    """Collects items while earlier groups are under way, and sends them as one.

    A group leaves when it is full, or when its first item has waited `linger_ms`, or at once when nothing is under way;
    always as soon as fewer than `groups_in_flight` are. `send` takes the items of a group and gives their outcomes in
    the same order; what it raises, every waiter of the group gets, and LostError when it is cancelled. It is called in
    the running loop and never twice for an item. An item whose waiter has gone is sent all the same.
    """

    def __init__(self, send: Callable[[list[Item]], Awaitable[Sequence[Outcome]]], bounds: Bounds) -> None:
        self._send = send
        self._bounds = bounds
        self._filling: _Group[Item, Outcome] | None = None
        self._is_ripe = False
        self._linger: asyncio.Handle | None = None
        self._sealed: deque[_Group[Item, Outcome]] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._waiting_count = 0
        self._waiting_size = 0
        self._is_closing = False

    def submit(self, item: Item, count: int, size: int) -> asyncio.Future[Outcome]:
        """Take an item and return the future of its outcome, without waiting.

        An item larger than a group's bounds leaves alone. Cancelling the future hurts nobody else.

        Raises:
            FullError: too much is waiting, or `close` has been called.

        """
        bounds = self._bounds
        if (
            self._waiting_count + count > bounds.waiting_count
            or self._waiting_size + size > bounds.waiting_size
            or self._is_closing
        ):
            raise FullError
        group = self._filling
        # Flush before appending, so that no group ever exceeds its bounds.
        if group and (group.count + count > bounds.group_count or group.size + size > bounds.group_size):
            self._seal()
            self._depart()
            group = None
        if group is None:
            group = self._begin()
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        group.items.append(item)
        group.waiters.append(waiter)
        group.count += count
        group.size += size
        self._waiting_count += count
        self._waiting_size += size
        if group.count >= bounds.group_count or group.size >= bounds.group_size:
            self._seal()
            self._depart()
        return waiter

    async def close(self) -> None:
        """Take nothing more, send what waits, and return when all of it has an outcome."""
        self._is_closing = True
        if self._filling:
            self._seal()
        self._depart()
        while self._flights:
            await asyncio.wait(self._flights)

    def _begin(self) -> _Group[Item, Outcome]:
        group: _Group[Item, Outcome] = _Group()
        self._filling = group
        self._is_ripe = False
        loop = asyncio.get_running_loop()
        if self._flights:
            self._linger = loop.call_later(self._bounds.linger_ms / 1000, self._ripen)
        else:
            # Not now but after what this turn of the loop still brings: requests read together leave together.
            self._linger = loop.call_soon(self._ripen)
        return group

    def _ripen(self) -> None:
        self._is_ripe = True
        self._depart()

    def _seal(self) -> None:
        """Take the group that is being filled out of reach of further items."""
        if self._filling:
            self._sealed.append(self._filling)
        self._filling = None
        if self._linger:
            self._linger.cancel()

    def _depart(self) -> None:
        """Send off what may leave, the oldest first."""
        while len(self._flights) < self._bounds.groups_in_flight:
            if not self._sealed:
                if not self._filling or not (self._is_ripe or not self._flights):
                    return
                self._seal()
            group = self._sealed.popleft()
            self._waiting_count -= group.count
            self._waiting_size -= group.size
            flight = asyncio.get_running_loop().create_task(self._fly(group))
            self._flights.add(flight)
            flight.add_done_callback(self._land)

    async def _fly(self, group: _Group[Item, Outcome]) -> None:
        try:
            outcomes = await self._send(group.items)
            for waiter, outcome in zip(group.waiters, outcomes, strict=True):
                if not waiter.done():
                    waiter.set_result(outcome)
        except (Exception, asyncio.CancelledError) as error:  # every kind: the waiters decide what it means
            failure = error if isinstance(error, Exception) else LostError()
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_exception(failure)
                    waiter.exception()  # seen: a waiter that is cancelled just now must not be reported as unheard

    def _land(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._depart()
