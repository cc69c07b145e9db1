"""Links between identities and contacts, after single and concurrent changes."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from footfall_eventlog.match_keys import Rule
from footfall_identity import relinking
from footfall_identity.contact_record import ContactChange, ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import manual_decisions
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.matching import MAX_CANDIDATES, Matches, Status, match_contact
from footfall_identity.relink_store import Cohort
from footfall_identity.relinking import Relinker
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from tests.service.identity.conftest import contact_writer
from tests.tools.contacts import Contacts
from tests.tools.eventually import eventually
from tests.tools.identity import admitted, entry, new_id
from tests.tools.variants import further
from tests.tools.visits import now_ms


async def sign_in(consumer: RecordConsumer, name: str, **data: str) -> None:
    await consumer.handle(0, [entry(admitted("SignIn", new_id(), now_ms(), name, data=data))])


def contact(contact_id: str, *emails: str, phones: tuple[str, ...] = (), name: str = " ") -> ContactRecord:
    first, last = name.split(" ")
    return ContactRecord(
        contact_id=contact_id, email_addresses=emails, phone_numbers=phones, first_name=first, last_name=last
    )


class Directory:
    """Writes contacts, and returns when the identities that they affect are linked."""

    def __init__(self, contacts: Contacts, relinker: Relinker) -> None:
        self._contacts = contacts
        self._relinker = relinker

    async def upsert(self, given: ContactRecord) -> ContactRecord:
        stored = await self._contacts.upsert(given)
        await self._relinker.finish()
        return stored

    async def delete(self, contact_id: str) -> bool:
        is_deleted = await self._contacts.delete(contact_id) is not None
        await self._relinker.finish()
        return is_deleted


@pytest.fixture
def directory(contacts: Contacts, relinker: Relinker) -> Directory:
    return Directory(contacts, relinker)


async def record_of(links: LinkStore, identity_id: str) -> IdentityRecord:
    return (await links.get([identity_id]))[identity_id]


def decisions(record: IdentityRecord) -> list[tuple[Status, Rule, str]]:
    return [(decision.status, decision.rule, decision.contact_id) for decision in record.decisions]


async def test_a_sign_in_links_to_the_contact_with_its_address(
    consumer: RecordConsumer, links: LinkStore, directory: Directory
) -> None:
    await directory.upsert(contact("c1", "Ann@Shop.example"))
    await sign_in(consumer, "ann", email="ann@shop.example")
    record = await record_of(links, "ann")
    assert record.contact_id == "c1"
    assert record.decisions[0].actor == "rule"
    assert record.decisions[0].match_key == record.match_keys.email


async def test_a_sign_in_links_by_the_names_of_the_contact_center(
    consumer: RecordConsumer, links: LinkStore, directory: Directory
) -> None:
    await directory.upsert(contact("c1", "ann@shop.example"))
    await directory.upsert(contact("c2", phones=("+49301234567",)))
    await directory.upsert(contact("c3", name="Ann Lee"))
    await sign_in(consumer, "by e-mail", EmailAddress="Ann@shop.example", PhoneNumber="1")
    await sign_in(consumer, "by phone", PhoneNumber="030 1234567", FirstName="Ann", LastName="Lee")
    await sign_in(consumer, "by name", FirstName="ann", LastName="LEE")
    found = {name: (await record_of(links, name)).contact_id for name in ("by e-mail", "by phone", "by name")}
    assert found == {"by e-mail": "c1", "by phone": "c2", "by name": "c3"}


async def test_links_follow_every_change_of_a_contact(
    consumer: RecordConsumer, links: LinkStore, directory: Directory
) -> None:
    await sign_in(consumer, "ann@shop.example", phone="030 1234567", firstName="Ann", lastName="Lee")
    steps: list[tuple[Callable[[], Awaitable[object]], tuple[Status, Rule, str]]] = [
        (lambda: directory.upsert(contact("c1", name="ann LEE")), (Status.LINKED, Rule.NAME, "c1")),
        (lambda: directory.upsert(contact("c2", phones=("+49301234567",))), (Status.LINKED, Rule.PHONE_NUMBER, "c2")),
        (lambda: directory.upsert(contact("c1", "ann@shop.example")), (Status.LINKED, Rule.EMAIL_ADDRESS, "c1")),
        (lambda: directory.upsert(contact("c3", "Ann@shop.example")), (Status.AMBIGUOUS, Rule.EMAIL_ADDRESS, "")),
        (lambda: directory.delete("c1"), (Status.LINKED, Rule.EMAIL_ADDRESS, "c3")),
        (lambda: directory.upsert(contact("c3", "other@shop.example")), (Status.LINKED, Rule.PHONE_NUMBER, "c2")),
        (lambda: directory.delete("c2"), (Status.UNLINKED, Rule.NONE, "")),
    ]
    for change, _ in steps:
        await change()
    assert decisions(await record_of(links, "ann@shop.example")) == [decided for _, decided in steps]
    ambiguous = (await record_of(links, "ann@shop.example")).decisions[3]
    assert ambiguous.candidates == ("c1", "c3")
    assert await directory.delete("c2") is False


async def test_a_repeated_change_makes_no_decision(
    consumer: RecordConsumer, links: LinkStore, directory: Directory
) -> None:
    for _ in range(2):
        first = await directory.upsert(contact("c1", "ann@shop.example"))
        await sign_in(consumer, "ann@shop.example")
    assert (await directory.upsert(contact("c1", "ann@shop.example"))).update_ms == first.update_ms
    assert decisions(await record_of(links, "ann@shop.example")) == [(Status.LINKED, Rule.EMAIL_ADDRESS, "c1")]


async def test_an_identity_whose_link_stays_is_not_written(
    consumer: RecordConsumer, linker: Linker, links: LinkStore, directory: Directory
) -> None:
    """Processes that link the same identities would stop each other again and again."""
    await directory.upsert(contact("c1", "ann@shop.example"))
    for name, address in (("ann", "ann@shop.example"), ("bob", "bob@shop.example")):
        await sign_in(consumer, name, email=address)
    await directory.upsert(contact("c2", "bob@shop.example"))
    before = await links.get(["ann", "bob"])
    assert (before["ann"].contact_id, before["bob"].contact_id) == ("c1", "c2")
    assert await linker.relink(["ann", "bob"]) == before
    assert await links.get(["ann", "bob"]) == before, "revisions too"


async def test_manual_decisions_prevail(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, directory: Directory
) -> None:
    await directory.upsert(contact("c1", "ann@shop.example"))
    await directory.upsert(contact("c2"))
    await sign_in(consumer, "ann@shop.example")
    assert (await linker.link("ann@shop.example", "c2", "agent")).contact_id == "c2"
    await sign_in(consumer, "ann@shop.example", firstName="Ann", lastName="Lee")
    assert (await record_of(links, "ann@shop.example")).contact_id == "c2"
    unlinked = await linker.unlink("ann@shop.example", "agent")
    assert (unlinked.contact_id, manual_decisions([unlinked]).ruled_out) == ("c1", {"c2"})  # the rules find c1
    assert (await linker.unlink("ann@shop.example", "agent")).contact_id == ""
    await directory.upsert(contact("c1", "ann@shop.example", "more@shop.example"))
    assert (await record_of(links, "ann@shop.example")).contact_id == ""
    assert [d.actor for d in (await record_of(links, "ann@shop.example")).decisions] == [
        "rule",
        "agent",
        "agent",
        "rule",
        "agent",
    ]


async def test_an_identity_can_be_linked_before_it_is_seen(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, directory: Directory
) -> None:
    await directory.upsert(contact("c1"))
    await linker.link("ann", "c1", "agent")
    assert await links.page("", 10, "") == []
    await sign_in(consumer, "ann")
    assert [record.contact_id for record in await links.page("", 10, "")] == ["c1"]
    assert [record.identity_id for record in await links.linked_to("c1", "", 10)] == ["ann"]


async def test_impossible_decisions_are_refused(linker: Linker) -> None:
    with pytest.raises(RequestError) as missing:
        await linker.link("ann", "nobody", "agent")
    assert missing.value.reason == "RESOURCE_NOT_FOUND"
    with pytest.raises(RequestError) as unlinked:
        await linker.unlink("ann", "agent")
    assert unlinked.value.reason == "NOT_LINKED"


async def test_contacts_are_found_by_many_keys_together(links: LinkStore, contacts: Contacts) -> None:
    """By keys of one contact, of several and of none, and by one of more than are read together."""
    number, names = "+49 30 1234567", {f"email:{number}@shop.example": f"c{number:02}" for number in range(60)}
    for key, contact_id in names.items():
        await contacts.upsert(contact(contact_id, key.partition(":")[2], phones=(number,)))
    await contacts.upsert(contact("last", "7@shop.example"))
    await contacts.delete("c08")
    names.pop("email:8@shop.example")
    everybody = sorted(names.values())
    expected = {key: Matches((contact_id,), 1) for key, contact_id in names.items()} | {
        "email:7@shop.example": Matches(("c07", "last"), 2),
        "email:8@shop.example": Matches((), 0),
        "phone:+49301234567": Matches(tuple(everybody[:50]), 59),
    }
    assert await links.matches(dict.fromkeys(expected, 50)) == expected
    for key, matches in expected.items():
        assert await links.matches({key: 50}) == {key: matches}


async def is_settled(links: LinkStore) -> bool:
    """Whether no identity is left to be linked."""
    stale = await links.stale_contacts(1, now_ms() + 60_000)
    return (await links.due(1), stale, await links.relinks.backlog()) == ([], [], (0, None))


async def assert_right(links: LinkStore, people: list[str]) -> None:
    """Assert that the links are what the rules say about the contacts and the identities that there are."""
    for record in (await links.get(people)).values():
        ruled_out = manual_decisions([record]).ruled_out
        expected = match_contact(
            record.match_keys,
            record.by_hand,
            ruled_out,
            await links.keys_of_contacts({record.by_hand, *ruled_out}),
            await links.matches(dict.fromkeys(record.keys, 1_000)),
        )
        last = record.decisions[-1] if record.decisions else None
        assert (last.status if last else Status.UNLINKED) is expected.status
        assert record.contact_id == expected.contact_id
        assert (last.candidates if last else ()) == expected.candidates
        assert (last.candidate_count if last else 0) == expected.candidate_count
        assert not record.is_due


@asynccontextmanager
async def running(*relinkers: Relinker) -> AsyncIterator[None]:
    """The background work of several processes."""
    tasks = [asyncio.create_task(relinker.run()) for relinker in relinkers]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("direct", [0, 100])
@pytest.mark.parametrize("seed", [0, 1, *map(further, range(2, 6))])
async def test_concurrent_changes_end_with_the_correct_link(
    consumer: RecordConsumer,
    links: LinkStore,
    linker: Linker,
    *,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    direct: int,
) -> None:
    """Two processes link in the background: all identities by notes and turns of one identity, or directly."""
    monkeypatch.setattr(relinking, "_MAX_DIRECT", direct)
    monkeypatch.setattr(relinking, "_IDENTITIES_PER_TURN", 1)
    chance = random.Random(seed)  # noqa: S311
    people, emails = ["ann", "bob"], ["a@shop.example", "b@shop.example"]
    relinkers = [Relinker(links, linker, wait_ms=0, max_wait_ms=0) for _ in range(2)]
    processes = [Contacts(contact_writer(links, relinker)) for relinker in relinkers]

    def actions() -> Iterator[Awaitable[object]]:
        for _ in range(10):
            pick = chance.random()
            contact_id, email, person = f"c{chance.randint(1, 3)}", chance.choice(emails), chance.choice(people)
            if pick < 0.4:
                given = contact(contact_id, *chance.sample(emails, chance.randint(0, 2)))
                yield chance.choice(processes).upsert(given)
            elif pick < 0.5:
                yield chance.choice(processes).delete(contact_id)
            elif pick < 0.6:
                yield _if_possible(linker.link(person, contact_id, "agent"))
            elif pick < 0.7:
                yield _if_possible(linker.unlink(person, "agent"))
            else:
                yield sign_in(consumer, person, email=email)

    async with running(*relinkers):
        await asyncio.gather(*actions())
        await eventually(lambda: is_settled(links))
    await assert_right(links, people)


async def link_marked(links: LinkStore, relinker: Relinker) -> None:
    """Do what follows first after contacts were stored: link few identities, store notes about many."""
    await relinker._link(await links.stale_contacts(10, now_ms() + 1_000))


async def test_what_a_crash_interrupts_is_finished_by_another_process(
    consumer: RecordConsumer,
    links: LinkStore,
    contacts: Contacts,
    linker: Linker,
    relinker: Relinker,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash after storing, after a note, in a turn, and after a turn. Each identity is linked in the end."""
    monkeypatch.setattr(relinking, "_MAX_DIRECT", 2)
    monkeypatch.setattr(relinking, "_IDENTITIES_PER_TURN", 2)
    people = [f"person {number}" for number in range(5)]
    for person in people:
        await sign_in(consumer, person, email="family@shop.example")
    stored = await contacts.upsert(contact("c1", "family@shop.example"))
    assert await relinker.pending_count(stored) == 1, "only the mark is stored, and nothing is counted yet"
    await link_marked(links, relinker)
    stored = contact_of(await links.contact("c1"))
    assert (stored.is_stale, await relinker.pending_count(stored)) == (False, 5), "there is a note instead"
    assert (await links.relinks.take_turn(now_ms(), now_ms())) is not None, "a process has begun a turn and dies"
    await relinker._take_turn()
    assert await relinker.pending_count(stored) == 3
    await contacts.upsert(contact("c2", "family@shop.example"))
    other = Relinker(links, linker, wait_ms=0, max_wait_ms=0)
    await other.finish()
    assert await is_settled(links)
    assert await relinker.pending_count(stored) == 0
    await assert_right(links, people)
    assert {record.decisions[-1].candidates for record in (await links.get(people)).values()} == {("c1", "c2")}


def contact_of(record: ContactRecord | None) -> ContactRecord:
    assert record is not None
    return record


async def test_identities_with_a_former_number_of_a_contact_are_counted_until_they_are_linked(
    consumer: RecordConsumer, links: LinkStore, contacts: Contacts, relinker: Relinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relinking, "_MAX_DIRECT", 2)
    people = [f"person {number}" for number in range(3)]
    for person in people:
        await sign_in(consumer, person, phone="030 1234567")
    await contacts.upsert(contact("c1", phones=("+49301234567",)))
    await relinker.finish()
    assert len(await links.linked_to("c1", "", 10)) == 3
    for title in ("Dr.", "Prof."):
        await contacts.upsert(replace(contact("c1"), title=title))
        await link_marked(links, relinker)
        assert await relinker.pending_count(contact_of(await links.contact("c1"))) == 3
    await relinker.finish()
    assert await relinker.pending_count(contact_of(await links.contact("c1"))) == 0
    assert await links.linked_to("c1", "", 10) == []


async def test_a_cohort_does_not_wait_for_a_larger_one(
    consumer: RecordConsumer, links: LinkStore, contacts: Contacts, relinker: Relinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns of two cohorts alternate, and a contact with few identities does not wait for a turn."""
    monkeypatch.setattr(relinking, "_MAX_DIRECT", 2)
    monkeypatch.setattr(relinking, "_IDENTITIES_PER_TURN", 1)
    for number in range(9):
        await sign_in(consumer, f"large {number}", email="large@shop.example")
    for number in range(3):
        await sign_in(consumer, f"small {number}", email="small@shop.example")
    await sign_in(consumer, "one", email="one@shop.example")
    for name in ("large", "small", "one"):
        await contacts.upsert(contact(name, f"{name}@shop.example"))
    await link_marked(links, relinker)
    assert (await record_of(links, "one")).contact_id == "one"
    for _ in range(8):
        await relinker._take_turn()
    assert len(await links.linked_to("small", "", 10)) == 3
    assert len(await links.linked_to("large", "", 10)) == 4
    await relinker.finish()
    assert len(await links.linked_to("large", "", 10)) == 9


async def test_a_process_pauses_after_each_step_for_contacts_of_other_processes(
    links: LinkStore, contacts: Contacts, linker: Linker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash there may be tens of thousands."""
    await contacts.upsert(contact("c0", "a@shop.example"))
    await contacts.writer.write([ContactChange(contact_id=f"c{n}", given=contact(f"c{n}")) for n in (1, 2)])
    steps: list[object] = []

    async def paced(step: Awaitable[object]) -> None:
        steps.append(await step)

    monkeypatch.setattr(relinking, "_paced", paced)
    await Relinker(links, linker, wait_ms=0, max_wait_ms=0).finish()
    assert len(steps) == 2, "one for the contact, one for the batch"
    assert await is_settled(links)


async def test_of_two_processes_that_take_the_same_turn_the_first_to_end_it_counts(links: LinkStore) -> None:
    """Otherwise no turn would ever end if each took longer than the time after which another process takes it."""
    cohort, notes, at = Cohort("keys", "email:family@shop.example"), links.relinks, now_ms()
    await notes.request({cohort: 3}, at)
    progress = []
    for linked in (["a", "b"], ["c"], []):
        first, second = await notes.take_turn(at, at), await notes.take_turn(at, at)
        for note in (first, second):
            assert note
            await (notes.end_turn(note, linked, at) if linked else notes.end_pass(note, at))
            progress.append([(one.position, one.done_count) for one in await notes.notes([cohort])])
    assert progress == [[("b", 2)], [("b", 2)], [("c", 3)], [("c", 3)], [], []]


async def test_an_erased_identity_is_not_linked_again(
    consumer: RecordConsumer,
    links: LinkStore,
    contacts: Contacts,
    relinker: Relinker,
    eraser: Eraser,
    *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relinking, "_MAX_DIRECT", 0)
    for person in ("ann", "bob"):
        await sign_in(consumer, person, email="family@shop.example")
    await contacts.upsert(contact("c1", "family@shop.example"))
    await link_marked(links, relinker)
    await eraser.erase("ann", "officer")
    await relinker.finish()
    assert [*await links.get(["ann", "bob"])] == ["bob"]
    assert (await record_of(links, "bob")).contact_id == "c1"


async def test_an_ambiguous_result_with_other_candidates_is_the_same_decision(
    consumer: RecordConsumer, links: LinkStore, directory: Directory
) -> None:
    await sign_in(consumer, "ann", email="family@shop.example")
    for number in range(MAX_CANDIDATES + 5):
        await directory.upsert(contact(f"c{number:02}", "family@shop.example"))
    record = await record_of(links, "ann")
    assert decisions(record) == [
        (Status.LINKED, Rule.EMAIL_ADDRESS, "c00"),
        (Status.AMBIGUOUS, Rule.EMAIL_ADDRESS, ""),
    ]
    last = record.decisions[-1]
    assert last.candidates == tuple(f"c{number:02}" for number in range(MAX_CANDIDATES))
    assert (last.candidate_count, last.count) == (MAX_CANDIDATES + 5, MAX_CANDIDATES + 4)
    assert last.last_ms > last.at_ms


async def _if_possible(action: Awaitable[object]) -> None:
    try:
        await action
    except RequestError as refusal:
        assert refusal.reason in {"NOT_LINKED", "RESOURCE_NOT_FOUND"}  # noqa: PT017
