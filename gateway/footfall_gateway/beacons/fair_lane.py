"""A lane for items that cost much: one batch at a time, senders in turn, and rests. Knows neither HTTP nor gRPC."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic

from footfall_gateway.beacons.batcher import Batch, Bounds, Item, Outcome, QueueFullError

_MAX_REST_S: Final = 2.0
"""The longest rest. Without it, a batch that waits for a store would hold the next ones up for much longer."""
_FULL_REST_SIZE: Final = 256 * 1024
"""Of the largest item of a batch. After smaller ones the rest is shorter in proportion: those cost less each."""
_MAX_SHARE: Final = 1 / 2
"""Of the queue, for one sender."""


@dataclass(frozen=True, slots=True)
class _Queued(Generic[Item, Outcome]):
    item: Item
    waiter: asyncio.Future[Outcome]
    count: int
    size: int


@dataclass(slots=True)
class _Queue(Generic[Item, Outcome]):
    items: deque[_Queued[Item, Outcome]] = field(default_factory=deque)
    count: int = 0
    size: int = 0


class FairLane(Generic[Item, Outcome]):
    """Sends one batch at a time, and rests after it, so that large items are sent for a share of the time at most.

    It is sending for `share` of the time if each batch has an item of 256 KiB or more; smaller ones rest less. A batch
    has the oldest item of each sender in turn, then the next of each, and so on until it is full. So a sender waits for
    one item of each other sender, however many those have sent. One sender has at most half of the queue.

    `send` is that of a Batcher. Of the `bounds`, `max_wait_ms` and `max_in_flight` do not apply.
    """

    def __init__(
        self, send: Callable[[list[Item]], Awaitable[Sequence[Outcome]]], bounds: Bounds, share: float
    ) -> None:
        """Needs the running loop."""
        self._send = send
        self._bounds = bounds
        self._rest = 1 / share - 1  # in multiples of what a batch took
        self._loop = asyncio.get_running_loop()
        self._now_s = self._loop.time
        self._queues: dict[str, _Queue[Item, Outcome]] = {}  # in the order of their turns
        self._count = self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()

    def submit(self, sender: str, item: Item, count: int, size: int) -> asyncio.Future[Outcome]:
        """Take an item and return the future of its outcome, without waiting. Otherwise as `Batcher.submit`.

        Raises:
            QueueFullError: too much is queued, of all senders or of this one, or `close` has been called.

        """
        queue = self._queues.get(sender) or _Queue()
        most_count, most_size = self._bounds.max_queued_count, self._bounds.max_queued_size
        is_full = self._count + count > most_count or self._size + size > most_size
        has_share = queue.count + count > most_count * _MAX_SHARE or queue.size + size > most_size * _MAX_SHARE
        if is_full or (queue.items and has_share) or self._is_closing.is_set():
            raise QueueFullError
        waiter: asyncio.Future[Outcome] = self._loop.create_future()
        queue.items.append(_Queued(item, waiter, count, size))
        self._queues[sender] = queue
        self._add(queue, count, size)
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return waiter

    async def close(self) -> None:
        """Refuse new items, send the queued ones without rests, and return when all have an outcome."""
        self._is_closing.set()
        if self._task:
            await asyncio.wait([self._task])

    def _add(self, queue: _Queue[Item, Outcome], count: int, size: int) -> None:
        queue.count += count
        queue.size += size
        self._count += count
        self._size += size

    async def _run(self) -> None:
        while self._queues:
            started_s = self._now_s()
            batch, largest = self._next_batch()
            await batch.deliver(self._send)
            took_s = self._now_s() - started_s
            rest_s = min(took_s * self._rest * min(1.0, largest / _FULL_REST_SIZE), _MAX_REST_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_closing.wait(), rest_s)
        self._task = None

    def _next_batch(self) -> tuple[Batch[Item, Outcome], int]:
        """Take the next batch from the queues; return it with the size of its largest item."""
        batch: Batch[Item, Outcome] = Batch()
        largest = 0
        bounds = self._bounds
        while self._queues:
            sender, queue = next(iter(self._queues.items()))
            first = queue.items[0]
            is_full = (
                batch.count + first.count > bounds.max_batch_count or batch.size + first.size > bounds.max_batch_size
            )
            if batch.items and is_full:
                break
            queue.items.popleft()
            self._add(queue, -first.count, -first.size)
            del self._queues[sender]
            if queue.items:  # behind the others
                self._queues[sender] = queue
            batch.items.append(first.item)
            batch.waiters.append(first.waiter)
            batch.count += first.count
            batch.size += first.size
            largest = max(largest, first.size)
        return batch, largest
