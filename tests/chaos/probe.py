"""Looks at a suite from outside during a fault: whether it is ready, accepts sign-ins, and knows who has signed in."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

import httpx
from footfall_timeline import normalize_uuid

from tests.chaos.clients import Ledger
from tests.tools.suite import Suite
from tests.tools.visits import Event, event, now_ms

_ANSWER_TIMEOUT_S: Final = 2.0
_SIGN_IN_S: Final = 0.5
_POLL_S: Final = 0.1
_RETURN_POLL_S: Final = 0.02


class Probe:
    """Signs in one visitor after the other, and records when the suite is ready."""

    def __init__(self, http: httpx.AsyncClient, ledger: Ledger) -> None:
        self._http = http
        self._ledger = ledger
        self._unseen: dict[str, Event] = {}
        """The confirmed sign-ins by event id for which live state has not been right since the fault."""
        self._unready_at: list[float] = []

    async def sign_in_often(self) -> None:
        """Sign in until cancelled."""
        while True:
            await self._signs_in()
            await asyncio.sleep(_SIGN_IN_S)

    async def watch_readiness(self) -> None:
        """Ask for readiness until cancelled."""
        while True:
            if not await self._is_ready():
                self._unready_at.append(time.monotonic())
            await asyncio.sleep(_POLL_S)

    def not_ready_after_s(self, began: float) -> float | None:
        """The seconds from `began` to the first answer of `/readyz` other than 200; None without any."""
        return min((at - began for at in self._unready_at if at >= began), default=None)

    async def returned(self, lost: Collection[str] = ()) -> float:
        """Wait until the suite accepts a sign-in, is ready, and knows all who have signed in. Returns the time.

        `lost` has the ids of events that need not be known.
        """
        while not (await self._signs_in() and await self._is_ready() and await self._knows_all_but(lost)):
            await asyncio.sleep(_RETURN_POLL_S)
        return time.monotonic()

    async def _signs_in(self) -> bool:
        """Whether the sign-in of a new visit is confirmed."""
        sign_in = event("SignIn", str(uuid.uuid4()), now_ms(), f"probe {uuid.uuid4().hex}")
        answer = await self._ledger.send(self._http, [sign_in])
        if answer.status == 204:
            self._unseen[normalize_uuid(sign_in["eventID"])] = sign_in
        return answer.status == 204

    async def _is_ready(self) -> bool:
        answer = await self._get("/readyz")
        return answer is not None and answer.status_code == 200

    async def _knows_all_but(self, lost: Collection[str]) -> bool:
        asked = {event_id: sign_in for event_id, sign_in in self._unseen.items() if event_id not in lost}
        known = await asyncio.gather(*map(self._knows, asked.values()))
        for event_id, is_known in zip(asked, known, strict=True):
            if is_known:
                del self._unseen[event_id]
        return all(known)

    async def _knows(self, sign_in: Event) -> bool:
        answer = await self._get(f"/api/v1/visits/{sign_in['visitID']}/visitor")
        if answer is None or answer.status_code != 200:
            return False
        visitor = answer.json()
        return (visitor["state"], visitor["identityId"]) == ("AUTHENTICATED", sign_in["data"]["userID"])

    async def _get(self, path: str) -> httpx.Response | None:
        try:
            return await self._http.get(path)
        except httpx.TransportError:
            return None


@asynccontextmanager
async def probing(suite: Suite, ledger: Ledger) -> AsyncIterator[Probe]:
    """Probe a suite within the block; confirmed sign-ins are in the ledger."""
    async with suite.http(timeout=_ANSWER_TIMEOUT_S) as http, asyncio.TaskGroup() as tasks:
        probe = Probe(http, ledger)
        watching = [tasks.create_task(probe.sign_in_often()), tasks.create_task(probe.watch_readiness())]
        yield probe
        for each in watching:
            each.cancel()
