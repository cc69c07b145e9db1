"""Links between identities and contacts, after single and concurrent changes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import pytest
from footfall_identity.contact_record import ContactRecord
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import ruled_out_contacts
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.matching import Rule, Status, match_contact
from footfall_servicekit.errors import RequestError

from tests.tools.identity import admitted, entry, new_id
from tests.tools.visits import now_ms


async def sign_in(consumer: RecordConsumer, name: str, **data: str) -> None:
    await consumer.handle(0, [entry(admitted("SignIn", new_id(), now_ms(), name, data=data))])


def contact(contact_id: str, *emails: str, phones: tuple[str, ...] = (), name: str = " ") -> ContactRecord:
    first, last = name.split(" ")
    return ContactRecord(
        contact_id=contact_id, email_addresses=emails, phone_numbers=phones, first_name=first, last_name=last
    )


async def record_of(links: LinkStore, identity_id: str) -> IdentityRecord:
    return (await links.get([identity_id]))[identity_id]


def decisions(record: IdentityRecord) -> list[tuple[Status, Rule, str]]:
    return [(decision.status, decision.rule, decision.contact_id) for decision in record.decisions]


async def test_a_sign_in_links_to_the_contact_with_its_address(
    consumer: RecordConsumer, links: LinkStore, linker: Linker
) -> None:
    await linker.upsert(contact("c1", "Ann@Shop.example"))
    await sign_in(consumer, "ann", email="ann@shop.example")
    record = await record_of(links, "ann")
    assert record.contact_id == "c1"
    assert record.decisions[0].actor == "rule"
    assert record.decisions[0].match_key == record.match_keys.email


async def test_a_sign_in_links_by_the_names_of_the_contact_center(
    consumer: RecordConsumer, links: LinkStore, linker: Linker
) -> None:
    await linker.upsert(contact("c1", "ann@shop.example"))
    await linker.upsert(contact("c2", phones=("+49301234567",)))
    await linker.upsert(contact("c3", name="Ann Lee"))
    await sign_in(consumer, "by e-mail", EmailAddress="Ann@shop.example", PhoneNumber="1")
    await sign_in(consumer, "by phone", PhoneNumber="030 1234567", FirstName="Ann", LastName="Lee")
    await sign_in(consumer, "by name", FirstName="ann", LastName="LEE")
    found = {name: (await record_of(links, name)).contact_id for name in ("by e-mail", "by phone", "by name")}
    assert found == {"by e-mail": "c1", "by phone": "c2", "by name": "c3"}


async def test_links_follow_every_change_of_a_contact(
    consumer: RecordConsumer, links: LinkStore, linker: Linker
) -> None:
    await sign_in(consumer, "ann@shop.example", phone="030 1234567", firstName="Ann", lastName="Lee")
    steps: list[tuple[Callable[[], Awaitable[object]], tuple[Status, Rule, str]]] = [
        (lambda: linker.upsert(contact("c1", name="ann LEE")), (Status.LINKED, Rule.NAME, "c1")),
        (lambda: linker.upsert(contact("c2", phones=("+49301234567",))), (Status.LINKED, Rule.PHONE_NUMBER, "c2")),
        (lambda: linker.upsert(contact("c1", "ann@shop.example")), (Status.LINKED, Rule.EMAIL_ADDRESS, "c1")),
        (lambda: linker.upsert(contact("c3", "Ann@shop.example")), (Status.AMBIGUOUS, Rule.EMAIL_ADDRESS, "")),
        (lambda: linker.delete("c1"), (Status.LINKED, Rule.EMAIL_ADDRESS, "c3")),
        (lambda: linker.upsert(contact("c3", "other@shop.example")), (Status.LINKED, Rule.PHONE_NUMBER, "c2")),
        (lambda: linker.delete("c2"), (Status.UNLINKED, Rule.NONE, "")),
    ]
    for change, _ in steps:
        await change()
    assert decisions(await record_of(links, "ann@shop.example")) == [decided for _, decided in steps]
    ambiguous = (await record_of(links, "ann@shop.example")).decisions[3]
    assert ambiguous.candidates == ("c1", "c3")
    assert await linker.delete("c2") is False


async def test_a_repeated_change_makes_no_decision(consumer: RecordConsumer, links: LinkStore, linker: Linker) -> None:
    for _ in range(2):
        first = await linker.upsert(contact("c1", "ann@shop.example"))
        await sign_in(consumer, "ann@shop.example")
    assert (await linker.upsert(contact("c1", "ann@shop.example"))).update_ms == first.update_ms
    assert decisions(await record_of(links, "ann@shop.example")) == [(Status.LINKED, Rule.EMAIL_ADDRESS, "c1")]


async def test_manual_decisions_prevail(consumer: RecordConsumer, links: LinkStore, linker: Linker) -> None:
    await linker.upsert(contact("c1", "ann@shop.example"))
    await linker.upsert(contact("c2"))
    await sign_in(consumer, "ann@shop.example")
    assert (await linker.link("ann@shop.example", "c2", "agent")).contact_id == "c2"
    await sign_in(consumer, "ann@shop.example", firstName="Ann", lastName="Lee")
    assert (await record_of(links, "ann@shop.example")).contact_id == "c2"
    unlinked = await linker.unlink("ann@shop.example", "agent")
    assert (unlinked.contact_id, ruled_out_contacts(unlinked)) == ("c1", {"c2"})  # the rules find c1
    assert (await linker.unlink("ann@shop.example", "agent")).contact_id == ""
    await linker.upsert(contact("c1", "ann@shop.example", "more@shop.example"))
    assert (await record_of(links, "ann@shop.example")).contact_id == ""
    assert [d.actor for d in (await record_of(links, "ann@shop.example")).decisions] == [
        "rule",
        "agent",
        "agent",
        "rule",
        "agent",
    ]


async def test_an_identity_can_be_linked_before_it_is_seen(
    consumer: RecordConsumer, links: LinkStore, linker: Linker
) -> None:
    await linker.upsert(contact("c1"))
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


async def test_interrupted_work_is_finished(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(_identity_ids: object) -> dict[str, IdentityRecord]:
        raise RequestError.unavailable("crash", 1)

    async def is_finished() -> bool:
        is_linked = (await record_of(links, "ann@shop.example")).contact_id == "c1"
        return is_linked and await links.unfinished(10) == ([], [])

    await sign_in(consumer, "ann@shop.example")
    with monkeypatch.context() as patch:
        patch.setattr(linker, "relink", crash)
        with pytest.raises(RequestError):
            await linker.upsert(contact("c1", "ann@shop.example"))
    assert not await is_finished()
    await linker.finish()
    assert await is_finished()


@pytest.mark.parametrize("seed", range(12))
async def test_concurrent_changes_end_with_the_correct_link(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    people, emails = ["ann", "bob"], ["a@shop.example", "b@shop.example"]

    def actions() -> Iterator[Awaitable[object]]:
        for _ in range(10):
            pick = chance.random()
            contact_id, email, person = f"c{chance.randint(1, 3)}", chance.choice(emails), chance.choice(people)
            if pick < 0.4:
                yield linker.upsert(contact(contact_id, *chance.sample(emails, chance.randint(0, 2))))
            elif pick < 0.5:
                yield linker.delete(contact_id)
            elif pick < 0.6:
                yield _if_possible(linker.link(person, contact_id, "agent"))
            elif pick < 0.7:
                yield _if_possible(linker.unlink(person, "agent"))
            else:
                yield sign_in(consumer, person, email=email)

    await asyncio.gather(*actions())
    for record in (await links.get(people)).values():
        by_hand = {record.by_hand} if record.by_hand else set()
        expected = match_contact(
            record.match_keys,
            record.by_hand,
            ruled_out_contacts(record),
            await links.existing_contacts(by_hand),
            await links.contacts_by_key(record.keys),
        )
        last = record.decisions[-1] if record.decisions else None
        assert (last.status if last else Status.UNLINKED) is expected.status
        assert record.contact_id == expected.contact_id
        assert (last.candidates if last else ()) == expected.candidates
        assert not record.is_due


async def _if_possible(action: Awaitable[object]) -> None:
    try:
        await action
    except RequestError as refusal:
        assert refusal.reason in {"NOT_LINKED", "RESOURCE_NOT_FOUND"}  # noqa: PT017
