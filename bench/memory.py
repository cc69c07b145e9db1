"""Redis memory of live state: of anonymous and of known visits, while they are live and later."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from footfall_eventlog.settings import DAY_MS
from footfall_identity.partitions import Partitions
from footfall_identity.visit_record import Page, Title, VisitUpdate
from footfall_identity.visitor_store import VisitorStore
from footfall_timeline import Assurance, Kind, Transition

from tests.tools.identity import new_id
from tests.tools.stores import running_valkey
from tests.tools.visits import now_ms

BATCH: Final = 1_000
IDLE_S: Final = 30
SHORT_RETENTION_S: Final = 40
"""In the place of 30 minutes and two hours."""
_EXACT: Final = (
    *("--appendonly", "no"),
    *("--slowlog-max-len", "0"),
    *("--lazyfree-lazy-user-del", "no"),
    *("--lazyfree-lazy-user-flush", "no"),
)
"""So that Redis uses memory for live state only, and what is deleted is freed immediately."""


@dataclass(frozen=True)
class Memory:
    """Bytes of Redis a visit, measured with so many visits.

    `anonymous_live` and `known_live` include the list of live visitors. `anonymous_left` and `known_later` remain when
    the visits are no longer recent. `index` is the entry by which an erasure finds a known visit.
    """

    visits: int
    anonymous_live: float
    anonymous_left: float
    known_live: float
    known_later: float
    index: float


class _LiveState:
    """The live state of one partition, in a Redis of its own."""

    def __init__(self, url: str, erasure_key: str) -> None:
        self._partitions = Partitions(url, 1, timeout_ms=20_000)
        self._empty = 0
        self.redis = self._partitions.redis[0]
        self.keys = self._partitions.keys[0]
        self.store = VisitorStore(
            self._partitions,
            retention_ms=8 * DAY_MS,
            idle_ms=IDLE_S * 1_000,
            short_retention_ms=SHORT_RETENTION_S * 1_000,
            changelog_max_entries=BATCH,
            max_transitions=1_000,
            max_pages=32,
            leave_ms=5_000,
            erasure_secret=erasure_key,
        )

    async def prepare(self) -> None:
        """Note what a Redis uses whose live state has become empty: buffers, and the script."""
        await self.store.merge(_visits(range(BATCH), are_known=True))
        await self.redis.flushall()
        self._empty = await self.used()

    async def used(self) -> int:
        """Return the bytes that live state uses."""
        return int((await self.redis.info("memory"))["used_memory"]) - self._empty

    async def fill(self, visits: int, *, are_known: bool) -> None:
        """Store so many visits. Raises RuntimeError if the first ones have ended before the last one is stored."""
        for start in range(0, visits, BATCH):
            await self.store.merge(_visits(range(start, start + BATCH), are_known=are_known))
        live = self.keys.live_known if are_known else self.keys.live_anonymous
        if await self.redis.zcount(live, now_ms() - IDLE_S * 1_000, "+inf") < visits:
            raise RuntimeError(f"the machine is too busy to store {visits} visits within {IDLE_S} s")
        await self.redis.delete(self.keys.changes)  # limited by number, not by visits

    async def close(self) -> None:
        """Close the connections."""
        await self._partitions.redis.aclose()


def _visits(numbers: range, *, are_known: bool) -> Iterator[VisitUpdate]:
    """Yield visits of one page with a title; known ones sign in, each as another person."""
    for number in numbers:
        at_ms = now_ms()
        url = f"https://www.shop.example/catalogue/section-{number % 12}/article-{number % 9973}.html"
        update = VisitUpdate(
            new_id(),
            first_ms=at_ms,
            last_ms=at_ms,
            site="default",
            received_ms=at_ms,
            global_visit_id=new_id(),
            page=Page(at_ms, url),
            title=Title(at_ms, f"Article of section {number % 12} - The Shop", url),
        )
        if are_known:
            identity = f"visitor-{number}@shop.example"
            update.transitions.append(Transition(at_ms, new_id(), Kind.SIGN_IN, Assurance.CLAIMED, identity))
        yield update


@asynccontextmanager
async def _empty_live_state(erasure_key: str = "") -> AsyncIterator[_LiveState]:
    """Start a Redis. Without a key, known visits are not indexed."""
    with (
        tempfile.TemporaryDirectory(prefix="footfall-bench-") as folder,
        running_valkey(Path(folder), *_EXACT) as url,
    ):
        live_state = _LiveState(url, erasure_key)
        await live_state.prepare()
        yield live_state
        await live_state.close()


def measure(visits: int) -> Memory:
    """Store so many anonymous and so many known visits, and wait until none of them is recent."""
    return asyncio.run(_measure(visits))


async def _measure(visits: int) -> Memory:
    async with (
        _empty_live_state() as anonymous,
        _empty_live_state() as known,
        _empty_live_state("the key of this measurement") as indexed,
    ):
        await anonymous.fill(visits, are_known=False)
        await known.fill(visits, are_known=True)
        anonymous_live, known_live = await anonymous.used(), await known.used()
        await indexed.fill(visits, are_known=True)
        index = await indexed.used() - known_live
        while await anonymous.redis.dbsize() or await known.redis.exists(known.keys.live_known):
            await asyncio.sleep(1)
            await anonymous.store.remove_expired(0)
            await known.store.remove_expired(0)
        return Memory(
            visits,
            anonymous_live=anonymous_live / visits,
            anonymous_left=await anonymous.used() / visits,
            known_live=known_live / visits,
            known_later=await known.used() / visits,
            index=index / visits,
        )
