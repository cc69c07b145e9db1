"""Measures writing of many contacts under load: rate, delay of GetVisitor, and whether all links are right afterwards.

Contacts are created, changed and synchronized while events arrive. Identity is killed while they are changed and while
they are synchronized, and the interrupted pass is begun again. `make bench-contacts` measures and writes
docs/dev/performance.md; `python -m bench.contact_writes --quick` only prints.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from statistics import quantiles
from typing import Any, Final

import grpc
import httpx
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import Contact
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from bench.machine import usage
from bench.page import measured, table, write
from bench.suite import fresh_suite
from tests.tools.suite import Program, Suite
from tests.tools.visits import event, now_ms

PER_BATCH: Final = 500
BATCHES_AT_ONCE: Final = 2
EVENTS_PER_BEACON: Final = 10
BEACONS_PER_SECOND: Final = 20
PROBES_PER_SECOND: Final = 50
QUIET_SECONDS: Final = 20.0
CALL_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 120.0
DELETED_PERCENT: Final = 10
PROGRAMS: Final[tuple[Program, ...]] = ("identity", "mongo")
TRANSIENT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Phase:
    """One pass over all contacts: how many a second, and what GetVisitor took meanwhile, in milliseconds.

    `cpu_us` is the CPU of identity and of the MongoDB server a contact, in microseconds, also that of the events
    meanwhile. None if identity was killed.
    """

    name: str
    rate: float
    cpu_us: tuple[float, float] | None
    delays_ms: Sequence[float]

    def percentiles(self) -> tuple[float, float]:
        """p50 and p99."""
        cuts = quantiles(self.delays_ms, n=100, method="inclusive")
        return cuts[49], cuts[98]


def email(number: int, version: int) -> str:
    """The address of a contact. Each version has other addresses, and the contacts have exchanged some of them."""
    return f"p{number if version == 0 else number ^ 1}.{version // 2}@shop.example"


def contact(number: int, version: int) -> Contact:
    """A contact: in version 1 every two contacts have exchanged their addresses."""
    return Contact(
        contact_id=f"c-{number:07}",
        email_addresses=[email(number, version)],
        phone_numbers=[f"+49 30 {number:07}"],
        first_name="Kim",
        last_name=f"Lee{number:x}",
    )


@dataclass
class Crowd:
    """Visitors who sign in while contacts are written, and the visit that is asked for."""

    suite: Suite
    contacts: int
    people: dict[str, str] = field(default_factory=dict)
    """The address by identity."""
    probed: str = field(default_factory=lambda: str(uuid.uuid4()))

    @asynccontextmanager
    async def active(self) -> AsyncIterator[None]:
        """Send events, and ask for the visit."""
        async with self.suite.http() as http:
            await self._send(http, self.probed, 0)
            sending = asyncio.create_task(self._send_all(http))
            try:
                with self._asking() as self._delays_ms:
                    yield
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        """Ask for the visit; gives the delays in milliseconds as they come."""
        delays_ms, answers = multiprocessing.Pipe(duplex=False)
        arguments = self.suite.targets["identity"], self.probed, answers
        process = multiprocessing.get_context("spawn").Process(target=ask, args=arguments)
        process.start()
        try:
            yield delays_ms
        finally:
            process.kill()
            process.join()

    async def _send_all(self, http: httpx.AsyncClient) -> None:
        started = time.monotonic()
        for number in itertools.count(1):
            await asyncio.sleep(started + number / BEACONS_PER_SECOND - time.monotonic())
            await self._send(http, str(uuid.uuid4()), number)

    async def _send(self, http: httpx.AsyncClient, visit_id: str, number: int) -> None:
        """Send a visit of a person with the address of a contact. The same person comes in two visits."""
        name, address = f"person {number // 2}", email(number // 2 * 7919 % self.contacts, 0)
        events = [event("SignIn", visit_id, now_ms(), name, data={"email": address})]
        events += [event("PageEntered", visit_id, now_ms() + n) for n in range(1, EVENTS_PER_BEACON)]
        if (await http.post("/beacon", json=events)).status_code == httpx.codes.NO_CONTENT:
            self.people[name] = address

    async def phase(self, name: str, count: int, work: Callable[[], Awaitable[None]]) -> Phase:
        """Do work on so many contacts; return what was measured."""
        self._answered()
        began, pids = time.monotonic(), [self.suite.pid(program) or 0 for program in PROGRAMS]
        before = [usage(pid).cpu_s for pid in pids]
        await work()
        seconds = time.monotonic() - began
        cpu_us = None
        if count and pids == [self.suite.pid(program) for program in PROGRAMS]:
            identity, mongo = ((usage(pid).cpu_s - was) / count * 1e6 for pid, was in zip(pids, before, strict=True))
            cpu_us = identity, mongo
        return Phase(name, count / seconds, cpu_us, self._answered())

    def _answered(self) -> list[float]:
        """The delays of what was answered since the last call, in milliseconds."""
        delays_ms = []
        while self._delays_ms.poll():
            delays_ms.append(self._delays_ms.recv())
        return delays_ms


def ask(target: str, visit_id: str, answers: Connection) -> None:
    """Ask for a visit until killed. In a process of its own, because building batches of contacts would delay it."""
    request = pb.GetVisitorRequest(visit_id=visit_id)
    while True:
        # A new channel after each failure: one whose server was killed may take ten seconds to connect again.
        with grpc.insecure_channel(target) as channel:
            get_visitor, is_up = IdentityServiceStub(channel).GetVisitor, True
            while is_up:
                began = time.perf_counter()
                try:
                    get_visitor(request, timeout=CALL_SECONDS)
                except grpc.RpcError as error:  # identity has been killed
                    if error.code() not in TRANSIENT:
                        raise
                    is_up = False
                else:
                    answers.send((time.perf_counter() - began) * 1000)
                time.sleep(1 / PROBES_PER_SECOND)


async def patiently(method: Callable[..., Awaitable[Any]], request: Any) -> Any:
    """Call identity until it answers."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in TRANSIENT or time.monotonic() > give_up_at:
                raise
        await asyncio.sleep(0.2)


async def send(stub: Any, numbers: Sequence[int], version: int, generation: int = 0) -> None:
    """Send contacts in batches, some at a time."""
    starts = iter(range(0, len(numbers), PER_BATCH))

    async def worker() -> None:
        for start in starts:
            given = [contact(number, version) for number in numbers[start : start + PER_BATCH]]
            request = pb.BatchUpsertContactsRequest(contacts=given, generation=generation)
            response = await patiently(stub.BatchUpsertContacts, request)
            if any(outcome.violations for outcome in response.outcomes):
                raise RuntimeError("a contact was refused")

    await asyncio.gather(*(worker() for _ in range(BATCHES_AT_ONCE)))


async def end_sync(stub: Any, generation: int) -> int:
    """End a synchronization; return how many contacts are left."""
    while True:
        response = await patiently(stub.FinishContactSync, pb.FinishContactSyncRequest(generation=generation))
        if not response.remaining_count:
            return int(response.kept_count)


async def measure(suite: Suite, contacts: int) -> list[Phase]:
    """Make all passes; return what was measured. Raises RuntimeError if a link is wrong at the end."""
    everybody = range(contacts)
    kept = [number for number in everybody if number % 100 >= DELETED_PERCENT]
    async with suite.channel("identity") as channel:
        stub = IdentityServiceStub(channel)
        crowd = Crowd(suite, contacts)

        async def interrupted(numbers: Sequence[int], version: int, generation: int = 0) -> None:
            """Send half of the contacts, kill identity in the middle of a batch, and begin again."""
            half = asyncio.create_task(send(stub, numbers[: len(numbers) // 2], version, generation))
            await asyncio.sleep(0.3)
            suite.kill("identity")
            await half
            await send(stub, numbers, version, generation)

        async def synced() -> None:
            await interrupted(kept, 1, generation=1)
            left = await end_sync(stub, 1)
            if left != len(kept):
                raise RuntimeError(f"{left} contacts are left instead of {len(kept)}")

        async def quiet() -> Phase:
            """What GetVisitor takes while no contact is written."""
            return await crowd.phase("none", 0, lambda: asyncio.sleep(QUIET_SECONDS))

        async with crowd.active():
            await asyncio.sleep(2)
            before = await quiet()
            phases = [
                await crowd.phase("created", contacts, lambda: send(stub, everybody, 0)),
                await crowd.phase("sent unchanged", contacts, lambda: send(stub, everybody, 0)),
                await crowd.phase("changed", contacts, lambda: send(stub, everybody, 1)),
            ]
            await interrupted(everybody, 1)
            phases.append(await crowd.phase("synchronized, with a kill", len(kept), synced))
            await _wait_until_right(stub, crowd.people, {email(number, 1): f"c-{number:07}" for number in kept})
            after = await quiet()
    return [replace(before, delays_ms=[*before.delays_ms, *after.delays_ms]), *phases]


async def _wait_until_right(stub: Any, people: dict[str, str], model: dict[str, str]) -> None:
    """Raises RuntimeError unless every person is linked to the contact with the same address, if there is one.

    Waits while more and more are.
    """
    expected = {name: model.get(address, "") for name, address in people.items()}
    fewest_wrong, give_up_at = len(expected) + 1, 0.0
    while True:
        found: dict[str, str] = defaultdict(str)
        names = [*expected]
        for start in range(0, len(names), PER_BATCH):
            request = pb.BatchGetIdentitiesRequest(identity_ids=names[start : start + PER_BATCH])
            response = await patiently(stub.BatchGetIdentities, request)
            found |= {one.identity_id: one.contact_id for one in response.identities}
        wrong = sum(found[name] != contact_id for name, contact_id in expected.items())
        if not wrong:
            return
        if wrong < fewest_wrong:
            fewest_wrong, give_up_at = wrong, time.monotonic() + PATIENCE_SECONDS
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{wrong} of {len(expected)} identities have a wrong link")
        await asyncio.sleep(1)


def text(phases: Sequence[Phase], contacts: int) -> str:
    """The measured section, in Markdown."""
    quiet = phases[0].percentiles()[1]
    rows = []
    for phase in phases:
        p50, p99 = phase.percentiles()
        rate = f"{phase.rate:,.0f}" if phase.rate else ""
        cpu = [f"{us:,.0f}" for us in phase.cpu_us] if phase.cpu_us else ["", ""]
        rows.append([phase.name, rate, *cpu, f"{p50:.1f}", f"{p99:.1f}", f"{p99 / quiet:.1f}"])
    events = EVENTS_PER_BEACON * BEACONS_PER_SECOND
    return "\n".join(
        [
            f"{contacts:,} contacts are written in batches of {PER_BATCH}, {BATCHES_AT_ONCE} at a time, while {events} "
            f"events a second arrive. `none`: {QUIET_SECONDS:.0f} s before and as long afterwards.",
            "CPU a contact in microseconds, with that of the events. GetVisitor in milliseconds.",
            "Goals: 1,500 a second, p99 at most twice that without contacts. All links were right afterwards.",
            "",
            *table("contacts|a second|CPU of identity|of MongoDB|GetVisitor p50|p99|ratio of p99", rows),
        ]
    )


def run(contacts: int) -> str:
    """Measure in a suite of its own; return the section of the report."""
    started = time.monotonic()
    with fresh_suite() as suite:
        section = text(asyncio.run(measure(suite, contacts)), contacts)
    return f"{measured(time.monotonic() - started)}\n{section}"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.contact_writes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few contacts; prints and leaves the page as it is")
    is_quick = parser.parse_args().quick
    section = run(3_000 if is_quick else 50_000)
    print(section)
    if not is_quick:
        write(section, "python -m bench.contact_writes")


if __name__ == "__main__":
    main()
