"""A telephone number that very many identities and contacts share: writes stay fast, and the links end right."""

import asyncio
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.admitted import transition_of
from footfall_identity.identity_record import IdentityMention, IdentityRecord, with_mentions
from footfall_identity.link_store import LinkStore
from footfall_identity.matching import MAX_CANDIDATES, Status

from tests.tools.eventually import eventually
from tests.tools.identity import ATTRIBUTE_NAMES, admitted, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

NUMBER = "+49301234567"
ADDRESS = "ann@shop.example"
PEOPLE = [f"person {number:04}" for number in range(5_000)]
CONTACTS = 2_000
GENERIC_FROM = 10_000
"""Identities that may give a number until rules no longer use it."""
OWN_NUMBER_EVERY = 10
"""Of so many contacts, one has a number of its own. They show how fast writes are on this machine."""


def identity(identity_id: str, **data: str) -> IdentityRecord:
    """The record of an identity after a SignIn, not linked yet."""
    event = admitted("SignIn", new_id(), now_ms(), identity_id, data=data)
    transition = transition_of(event)
    assert transition
    mention = IdentityMention.of(event, transition, ATTRIBUTE_NAMES, None)
    return with_mentions(IdentityRecord(identity_id=identity_id), [mention], [])


def contact(contact_id: str, **fields: Any) -> contact_pb2.Contact:
    return contact_pb2.Contact(contact_id=contact_id, phone_numbers=[NUMBER], **fields)


async def store(links: LinkStore, records: list[IdentityRecord]) -> None:
    for start in range(0, len(records), 100):
        assert await links.replace([(None, record) for record in records[start : start + 100]])


async def test_a_write_waits_as_long_as_the_caller_says(running_identity: Running, links: LinkStore) -> None:
    await store(links, [identity(f"person {number:03}", phone=NUMBER) for number in range(150)])
    async with (
        running_identity(
            IDENTITY_MONGO_TIMEOUT_MS=20_000,
            IDENTITY_MAX_LINK_WAIT_MS=20_000,
            IDENTITY_MAX_IDENTITIES_PER_VALUE=GENERIC_FROM,
        ) as process,
        process.stub() as stub,
    ):
        soon = await stub.UpsertContact(pb.UpsertContactRequest(contact=contact("c1"), wait_ms=0))
        assert soon.pending_identity_count in {1, 150}, "not counted yet, or counted"
        await stub.UpsertContact(pb.UpsertContactRequest(contact=contact("c2"), wait_ms=20_000))
        known = await stub.GetContact(pb.GetContactRequest(contact_id="c1"))
        assert known.pending_identity_count == 0
        last = {record.decisions[-1].candidates for record in (await links.get(["person 000", "person 149"])).values()}
        assert last == {("c1", "c2")}
        gone = await stub.DeleteContact(pb.DeleteContactRequest(contact_id="c1", wait_ms=20_000))
        assert gone.pending_identity_count == 0
        assert len(await links.linked_to("c2", "", 200)) == 150


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_a_number_of_5000_identities_and_2000_contacts(running_identity: Running, links: LinkStore) -> None:
    await store(links, [*(identity(person, phone=NUMBER) for person in PEOPLE), identity("ann", email=ADDRESS)])
    numbers = iter(range(CONTACTS))
    shared_s: list[float] = []
    own_s: list[float] = []

    async def write(stub: Any, given: contact_pb2.Contact, took_s: list[float]) -> None:
        began = time.monotonic()
        await stub.UpsertContact(pb.UpsertContactRequest(contact=given), timeout=60)
        took_s.append(time.monotonic() - began)

    async def write_all(stub: Any) -> None:
        for number in numbers:
            await write(stub, contact(f"c{number:04}"), shared_s)
            if number % OWN_NUMBER_EVERY == 0:
                own = contact_pb2.Contact(contact_id=f"own {number}", phone_numbers=[f"+4940{number:06}"])
                await write(stub, own, own_s)

    limits = {"IDENTITY_LINK_WAIT_MS": 500, "IDENTITY_MAX_IDENTITIES_PER_VALUE": GENERIC_FROM}
    async with running_identity(IDENTITY_MONGO_TIMEOUT_MS=20_000, **limits) as process:
        statm = Path(f"/proc/{process.process.pid}/statm")

        def resident_bytes() -> int:
            return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before_bytes = resident_bytes()
        async with process.stub() as stub:
            await asyncio.gather(*(write_all(stub) for _ in range(10)))
            assert median(shared_s) < 2 * median(own_s) + 0.5
            assert max(shared_s) < max(1, 2 * max(own_s)), "a second, unless every write is slow on this machine"

            other = contact_pb2.Contact(contact_id="ann", email_addresses=[ADDRESS])
            await stub.UpsertContact(pb.UpsertContactRequest(contact=other, wait_ms=10_000))
            assert (await links.get(["ann"]))["ann"].contact_id == "ann"
            assert (await stub.GetContact(pb.GetContactRequest(contact_id="c0000"))).pending_identity_count > 0

            async def is_linked() -> bool:
                answer = await stub.GetContact(pb.GetContactRequest(contact_id="c0000"))
                return not answer.pending_identity_count

            await eventually(is_linked, timeout=1_000)
            assert resident_bytes() - before_bytes < 50e6
    expected = tuple(f"c{number:04}" for number in range(MAX_CANDIDATES))
    for start in range(0, len(PEOPLE), 500):
        records = (await links.get(PEOPLE[start : start + 500])).values()
        last = [record.decisions[-1] for record in records]
        assert {(one.status, one.candidates, one.candidate_count) for one in last} == {
            (Status.AMBIGUOUS, expected, CONTACTS)
        }
        assert max(len(record.decisions) for record in records) <= 2
