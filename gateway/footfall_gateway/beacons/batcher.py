"""Batches of items that wait at the same time. Knows neither HTTP nor gRPC."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_SHARE_WAITED = 0.5
"""How long a batch waits when none is in flight, as a share of the time that the last batch took."""


class QueueFullError(Exception):
    """The queue is full, so the item was not taken."""


class OutcomeUnknownError(Exception):
    """The call with the item's batch was cancelled: the item may or may not have been processed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a batch, of the queue, and of the batches in flight.

    `count` and `size` are the caller's measures of an item; here events and bytes.
    """

    max_batch_count: int
    max_batch_size: int
    max_wait_ms: float
    max_in_flight: int
    max_queued_count: int
    max_queued_size: int


@dataclass(slots=True)
class Batch(Generic[Item, Outcome]):
    """Items that are sent together, and what waits for the outcome of each."""

    items: list[Item] = field(default_factory=list)
    waiters: list[asyncio.Future[Outcome]] = field(default_factory=list)
    count: int = 0
    size: int = 0

    async def deliver(self, send: Callable[[list[Item]], Awaitable[Sequence[Outcome]]]) -> None:
        """Send the items and distribute the outcomes. Raises nothing: what `send` raises is the outcome of each."""
        try:
            outcomes = await send(self.items)
            for waiter, outcome in zip(self.waiters, outcomes, strict=True):
                if not waiter.done():
                    waiter.set_result(outcome)
        except (Exception, asyncio.CancelledError) as error:  # of any kind: the waiters handle it
            failure = error if isinstance(error, Exception) else OutcomeUnknownError()
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_exception(failure)
                    waiter.exception()  # marks it as retrieved: asyncio would log it for a waiter cancelled just now


class Batcher(Generic[Item, Outcome]):
    """Collects items while earlier batches are in flight, and sends them as one batch.

    A batch is due when it is full, or when its first item has waited `max_wait_ms`. When no batch is in flight, the
    item waits only half as long as the last batch took: batches grow when sending takes longer, and an idle batcher
    sends almost immediately. A batch is sent once it is due and fewer than `max_in_flight` batches are in flight.

    `send` gets the items of a batch and returns their outcomes in the same order. It is called in the running loop,
    once for each item, also when the waiter of an item was cancelled. If `send` raises, every waiter of the batch gets
    the exception; if it is cancelled, they get OutcomeUnknownError.
    """

    def __init__(self, send: Callable[[list[Item]], Awaitable[Sequence[Outcome]]], bounds: Bounds) -> None:
        """Needs the running loop."""
        self._send = send
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()  # to ask for it is a system call before Python 3.12
        self._filling: Batch[Item, Outcome] | None = None
        self._is_due = False
        self._opened_s = self._last_took_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._queue: deque[Batch[Item, Outcome]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._queued_count = 0
        self._queued_size = 0
        self._is_closing = False

    def submit(self, item: Item, count: int, size: int) -> asyncio.Future[Outcome]:
        """Take an item and return the future of its outcome, without waiting.

        An item larger than the bounds of a batch is a batch of its own. Cancelling the future affects no other item.

        Raises:
            QueueFullError: too much is queued, or `close` has been called.

        """
        bounds = self._bounds
        if (
            self._queued_count + count > bounds.max_queued_count
            or self._queued_size + size > bounds.max_queued_size
            or self._is_closing
        ):
            raise QueueFullError
        batch = self._filling
        # Checked before the item is added, so that no batch exceeds its bounds.
        if batch and (batch.count + count > bounds.max_batch_count or batch.size + size > bounds.max_batch_size):
            self._enqueue()
            self._send_due()
            batch = None
        if batch is None:
            batch = self._open_batch()
        waiter: asyncio.Future[Outcome] = self._loop.create_future()
        batch.items.append(item)
        batch.waiters.append(waiter)
        batch.count += count
        batch.size += size
        self._queued_count += count
        self._queued_size += size
        if batch.count >= bounds.max_batch_count or batch.size >= bounds.max_batch_size:
            self._enqueue()
            self._send_due()
        return waiter

    async def close(self) -> None:
        """Refuse new items, send the queued ones, and return when all have an outcome."""
        self._is_closing = True
        self._enqueue()
        self._send_due()
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def _open_batch(self) -> Batch[Item, Outcome]:
        batch: Batch[Item, Outcome] = Batch()
        self._filling = batch
        self._is_due = False
        self._opened_s = self._loop.time()
        self._set_timer()
        return batch

    def _set_timer(self) -> None:
        wait_s = self._bounds.max_wait_ms / 1000
        if not self._in_flight:
            wait_s = min(wait_s, self._last_took_s * _SHARE_WAITED)
        if self._timer:
            self._timer.cancel()
        # At the earliest after this turn of the loop, so that requests read in it share the batch.
        self._timer = self._loop.call_later(max(0, self._opened_s + wait_s - self._loop.time()), self._become_due)

    def _become_due(self) -> None:
        self._is_due = True
        self._send_due()

    def _enqueue(self) -> None:
        """Complete the batch that is being filled."""
        if self._filling:
            self._queue.append(self._filling)
        self._filling = None
        if self._timer:
            self._timer.cancel()

    def _send_due(self) -> None:
        """Send the batches that are due, the oldest first."""
        while len(self._in_flight) < self._bounds.max_in_flight:
            if not self._queue:
                if not (self._filling and self._is_due):
                    return
                self._enqueue()
            batch = self._queue.popleft()
            self._queued_count -= batch.count
            self._queued_size -= batch.size
            task = self._loop.create_task(self._deliver(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._finish)

    async def _deliver(self, batch: Batch[Item, Outcome]) -> None:
        started_s = self._loop.time()
        await batch.deliver(self._send)
        self._last_took_s = self._loop.time() - started_s

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._filling and not self._in_flight:
            self._set_timer()
        self._send_due()
