"""Identities that were renamed and contacts that were merged: what a name leads to, and exact undoing."""

import asyncio
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
from footfall_eventlog.match_keys import Rule
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.matching import Status
from footfall_identity.persons import Persons
from footfall_identity.redirects import MAX_DECISIONS, Redirect
from footfall_identity.relinking import Relinker
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from tests.tools.contacts import Contacts
from tests.tools.identity import admitted, entry, new_id
from tests.tools.reference import Reference, Sent
from tests.tools.visits import now_ms

EXAMPLES = int(os.environ.get("FOOTFALL_EXAMPLES", "6"))
STEPS = 20


def contact(contact_id: str, *emails: str, phone: str = "") -> ContactRecord:
    return ContactRecord(contact_id=contact_id, email_addresses=emails, phone_numbers=(phone,) if phone else ())


async def sign_in(consumer: RecordConsumer, name: str, at_ms: int | None = None, **data: str) -> None:
    await consumer.handle(0, [entry(admitted("SignIn", new_id(), at_ms or now_ms(), name, data=data, site="shop"))])


async def linked(links: LinkStore, *names: str) -> dict[str, str]:
    """The contact of each name that is stored."""
    return {name: record.contact_id for name, record in (await links.get(names)).items()}


async def refusal(action: Awaitable[object]) -> str:
    with pytest.raises(RequestError) as refused:
        await action
    return refused.value.reason


async def test_all_names_of_a_person_are_linked_by_what_is_known_of_any_until_it_is_undone(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts, relinker: Relinker
) -> None:
    await contacts.upsert(contact("c1", "ann@shop.example"))
    await contacts.upsert(contact("c2", "ann@new.example"))
    await sign_in(consumer, "4711", email="ann@shop.example")
    before = (await links.get(["4711"]))["4711"]
    await linker.rename("4711", "4712", "crm")
    assert await linked(links, "4711", "4712") == {"4711": "c1", "4712": "c1"}, "also before the new name is seen"
    await linker.undo_rename("4711", "crm")
    assert await linked(links, "4711", "4712") == {"4711": "c1"}, "nothing is left of the new name"
    await linker.rename("4711", "4712", "crm")
    await sign_in(consumer, "4712", email="ann@new.example")
    assert await linked(links, "4711", "4712") == {"4711": "c2", "4712": "c2"}, "the newest address counts"
    await contacts.delete("c2")
    await relinker.finish()
    assert await linked(links, "4711", "4712") == {"4711": "", "4712": ""}
    await linker.undo_rename("4711", "crm")
    after = (await links.get(["4711"]))["4711"]
    ignored = {"rev": "", "decisions": ()}
    assert replace(after, **ignored) == replace(before, **ignored)
    assert after.decisions[-1].contact_id == "c1"
    assert await linked(links, "4712") == {"4712": ""}


async def test_a_rename_counts_also_for_events_that_arrive_after_it(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts
) -> None:
    await linker.rename("old", "new", "crm")
    assert await links.get(["old", "new"]) == {}
    await contacts.upsert(contact("c1", "ann@shop.example"))
    await sign_in(consumer, "new")
    await sign_in(consumer, "old", email="ann@shop.example")
    assert await linked(links, "old", "new") == {"old": "c1", "new": "c1"}
    person = await Persons(links).find("old", [])
    assert (person.current_id, person.identity_ids) == ("new", ["new", "old"])
    assert person.record
    assert (person.record.identity_id, person.record.contact_id) == ("new", "c1")


async def test_decisions_by_hand_hold_for_all_names_and_stay_with_their_own(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts
) -> None:
    for contact_id in ("c1", "c2"):
        await contacts.upsert(contact(contact_id))
    for name in ("a", "b"):
        await sign_in(consumer, name)
    await linker.link("a", "c1", "agent")
    await linker.link("b", "c2", "agent")
    await linker.rename("a", "b", "crm")
    assert await linked(links, "a", "b") == {"a": "c2", "b": "c2"}, "the later decision"
    derived = (await links.get(["a"]))["a"].decisions[-1]
    assert (derived.rule, derived.is_derived, derived.actor) == (Rule.MANUAL, True, "agent")
    assert (await linker.link("a", "c1", "agent")).contact_id == "c1", "now it is the later one"
    assert await linked(links, "a", "b") == {"a": "c1", "b": "c1"}
    await linker.undo_rename("a", "crm")
    assert await linked(links, "a", "b") == {"a": "c1", "b": "c2"}
    await linker.rename("a", "b", "crm")
    await linker.unlink("b", "agent")
    assert await linked(links, "a", "b") == {"a": "", "b": ""}
    await linker.undo_rename("a", "crm")
    assert await linked(links, "a", "b") == {"a": "c1", "b": ""}


async def test_renames_form_chains_but_no_circles_and_not_too_many_names(links: LinkStore, linker: Linker) -> None:
    await linker.rename("a", "b", "crm")
    await linker.rename("b", "c", "crm")
    assert (await linker.rename("a", "b", "other")).decisions[-1].actor == "crm", "safe to repeat"
    assert await refusal(linker.rename("c", "a", "crm")) == "REDIRECT_CYCLE"
    assert await refusal(linker.rename("a", "c", "crm")) == "ALREADY_REDIRECTED"
    assert await refusal(linker.undo_rename("c", "crm")) == "NOT_REDIRECTED"
    names = await links.renames.names(["b"])
    assert (names.current("a"), names.together("b")) == ("c", ["a", "b", "c"])
    links.renames.max_names = 4
    await linker.rename("d", "b", "crm")
    await linker.rename("e", "f", "crm")
    for old, new in (("x", "a"), ("c", "x"), ("c", "e"), ("f", "d")):
        assert await refusal(linker.rename(old, new, "crm")) == "TOO_MANY_NAMES"
    undone = await linker.undo_rename("a", "officer")
    assert (undone.to_id, undone.decisions[-1].undone_by) == ("", "officer")
    assert (await linker.undo_rename("a", "crm")).decisions == undone.decisions, "safe to repeat"
    assert (await links.renames.names(["a"])).together("a") == ["a"]


async def test_of_renames_at_the_same_time_none_makes_a_circle_or_exceeds_the_limit(links: LinkStore) -> None:
    links.renames.max_names = 4
    for _ in range(20):
        mark = uuid.uuid4().hex
        steps = [("a", "b"), ("b", "a"), ("c", "a"), ("d", "c"), ("e", "d"), ("f", "a")]
        decided = (links.renames.decide(f"{old}{mark}", f"{new}{mark}", "crm", now_ms()) for old, new in steps)
        outcomes = await asyncio.gather(*decided, return_exceptions=True)
        names = await links.renames.names([f"{name}{mark}" for name in "abcdef"])
        assert not any(names.has_circle(f"{name}{mark}") for name in "abcdef")
        assert all(len(names.together(f"{name}{mark}")) <= 4 for name in "abcdef")
        assert len(names.leads_to) == sum(isinstance(one, Redirect) for one in outcomes)


@pytest.mark.parametrize("kind", ["renames", "merges"])
async def test_a_decision_counts_in_every_process_when_it_is_answered(
    mongo_url: str, mongo_database: str, kind: str
) -> None:
    made = [
        LinkStore(mongo_url, mongo_database, timeout_ms=20_000, erasure_secret="", remember_ms=1_000) for _ in range(2)
    ]
    here, there = (getattr(one, kind) for one in made)
    assert not await there.names(["a"], may_remember=True)
    await here.decide("a", "b", "crm", now_ms())
    assert (await there.names(["a"], may_remember=True)).current("a") == "b"
    await here.undo("a", "crm", now_ms())
    await here.decide("a", "b", "crm", now_ms() - 120_000)
    began = time.monotonic()
    await here.decide("c", "d", "crm", now_ms())
    assert time.monotonic() - began < 1, "no process remembers that there was none two minutes ago"
    for one in made:
        await one.close()


async def test_of_one_name_the_newest_decisions_are_kept(links: LinkStore) -> None:
    for number in range(MAX_DECISIONS + 2):
        await links.renames.decide("a", f"b{number}", "crm", now_ms())
        kept = await links.renames.undo("a", "crm", now_ms())
    assert [decision.to_id for decision in kept.decisions] == [f"b{number}" for number in range(2, MAX_DECISIONS + 2)]
    assert len(kept.mentions) == MAX_DECISIONS + 1


async def test_after_a_crash_the_links_follow(
    consumer: RecordConsumer, links: LinkStore, contacts: Contacts, relinker: Relinker
) -> None:
    await contacts.upsert(contact("c1", "ann@shop.example"))
    await contacts.upsert(contact("c2"))
    await sign_in(consumer, "old", email="ann@shop.example")
    await sign_in(consumer, "new")
    await links.renames.decide("old", "new", "crm", now_ms())
    await links.merges.decide("c1", "c2", "crm", now_ms())
    assert await linked(links, "old", "new") == {"old": "c1", "new": ""}
    await relinker.finish()
    assert await linked(links, "old", "new") == {"old": "c2", "new": "c2"}
    assert (await links.renames.due(1), await links.merges.due(1)) == ([], [])


async def test_merged_contacts_are_one_candidate_and_links_lead_to_the_one_that_stays(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts, relinker: Relinker
) -> None:
    for contact_id in ("c1", "c2", "c3"):
        await contacts.upsert(contact(contact_id, "family@shop.example"))
    await contacts.upsert(contact("c4", "ann@shop.example"))
    await sign_in(consumer, "family", email="family@shop.example")
    await sign_in(consumer, "ann", email="ann@shop.example")
    await sign_in(consumer, "by hand")
    await linker.link("by hand", "c1", "agent")
    before = await links.get(["family", "ann", "by hand"])
    await relinker.merge("c1", "c2", "crm")
    family = (await links.get(["family"]))["family"].decisions[-1]
    assert (family.status, family.candidates, family.match_count) == (Status.AMBIGUOUS, ("c2", "c3"), 2)
    await relinker.merge("c3", "c4", "crm")
    await relinker.merge("c2", "c4", "crm")
    found = await linked(links, "family", "ann", "by hand")
    assert found == {"family": "c4", "ann": "c4", "by hand": "c4"}
    await contacts.delete("c1")  # the contact center does so with what it has merged
    await relinker.finish()
    assert await linked(links, "by hand") == {"by hand": "c4"}
    await contacts.delete("c4")
    await relinker.finish()
    assert await linked(links, "ann", "by hand") == {"ann": "", "by hand": "c2"}, "as far as they exist"
    await contacts.upsert(contact("c1", "family@shop.example"))
    await contacts.upsert(contact("c4", "ann@shop.example"))
    for contact_id in ("c1", "c3", "c2"):
        await relinker.undo_merge(contact_id, "crm")
    await relinker.finish()
    for name, record in (await links.get(before)).items():
        assert now_decided(record) == now_decided(before[name]), name


def now_decided(record: IdentityRecord) -> tuple[object, ...]:
    last = record.decisions[-1]
    return (last.status, last.rule, last.contact_id, last.candidates, last.candidate_count, record.by_hand)


async def test_many_contacts_of_one_merge_hide_no_other_candidate(
    consumer: RecordConsumer, links: LinkStore, contacts: Contacts, relinker: Relinker
) -> None:
    links.merges.max_names = 60
    for number in range(60):
        await contacts.upsert(contact(f"c{number:02}", "family@shop.example"))
    await contacts.upsert(contact("d", "family@shop.example"))
    for number in range(1, 60):
        await links.merges.decide(f"c{number:02}", "c00", "crm", now_ms())
    await sign_in(consumer, "family", email="family@shop.example")
    last = (await links.get(["family"]))["family"].decisions[-1]
    assert (last.status, last.candidates, last.match_count) == (Status.AMBIGUOUS, ("c00", "d"), 2)
    assert await refusal(relinker.merge("e", "c01", "crm")) == "TOO_MANY_NAMES"


async def test_all_names_are_erased_and_the_decisions_that_tell_them(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, eraser: Eraser
) -> None:
    for name in ("a", "b", "bystander"):
        await sign_in(consumer, name)
    await linker.rename("bystander", "b", "by mistake")
    await linker.undo_rename("bystander", "crm")
    await linker.rename("bystander", "other", "crm")
    await linker.rename("a", "b", "crm")
    erased = await eraser.erase("a", "officer")
    assert [one.identity_id for one in erased.other_names] == ["b"]
    assert (erased.identity_erased, erased.other_names[0].erasure.identity_hash) != (False, b"")
    assert [*await links.get(["a", "b", "bystander"])] == ["bystander"]
    [left] = await links.renames.page("", 10)
    assert (left.from_id, left.to_id, left.mentions) == ("bystander", "other", ("bystander", "other"))


async def test_a_site_sees_redirects_only_between_names_that_it_knows(
    consumer: RecordConsumer, links: LinkStore, linker: Linker
) -> None:
    for name in ("a", "c"):
        await sign_in(consumer, name)
    await consumer.handle(0, [entry(admitted("SignIn", new_id(), now_ms(), "b", site="bank"))])
    await linker.rename("a", "b", "crm")
    await linker.rename("b", "c", "crm")
    persons = Persons(links)
    seen = {site: await persons.find("a", [site] if site else []) for site in ("", "shop", "bank")}
    assert seen[""].identity_ids == ["a", "b", "c"]
    assert (seen["shop"].identity_ids, seen["shop"].current_id) == (["a"], "a"), "what leads to c is hidden"
    assert seen["bank"].record is None
    await linker.undo_rename("a", "crm")
    await linker.rename("a", "c", "crm")
    assert (await persons.find("a", ["shop"])).identity_ids == ["a", "c"]


class Story:
    """Random steps, and what the reference says of them. All names are this story's own."""

    def __init__(self, seed: int, consumer: RecordConsumer, linker: Linker, contacts: Contacts, relinker: Relinker):
        self.chance = random.Random(seed)  # noqa: S311
        self.consumer, self.linker, self.contacts, self.relinker = consumer, linker, contacts, relinker
        self.reference = Reference()
        mark = uuid.uuid4().hex[:12]
        self.people = [f"ann.{mark}@shop.example", f"4711-{mark}", f"4712-{mark}", f"bob-{mark}"]
        self.contact_ids = [f"c{number}-{mark}" for number in range(4)]
        self.emails = [self.people[0], f"home.{mark}@mail.example"]
        self.phones = [f"+4930{uuid.uuid4().int % 10**8:08d}" for _ in range(2)]
        self.began_ms = now_ms() - 600_000

    async def step(self) -> None:
        often = [self.event, self.event, self.rename, self.merge, self.directory]
        steps = [*often, *often, self.gone, self.link, self.unlink, self.undo_rename, self.undo_merge]
        await self.chance.choice(steps)()

    def two(self, of: list[str]) -> tuple[str, str]:
        one, other = self.chance.sample(of, 2)
        return one, other

    async def event(self) -> None:
        """A SignIn or UserInfo, in no order of time."""
        user, name = self.chance.choice(self.people), self.chance.choice(["SignIn", "SignIn", "UserInfo"])
        at_ms, data = self.began_ms + self.chance.randrange(500_000), {}
        if name == "SignIn":
            if self.chance.random() < 0.4:
                data["email"] = self.chance.choice(self.emails)
            if self.chance.random() < 0.4:
                data["phone"] = self.chance.choice(self.phones)
        sent = admitted(name, new_id(), at_ms, user, data=dict(data))
        await self.consumer.handle(0, [entry(sent)])
        self.reference.visits[sent.visit_id] = {sent.event_id: Sent(at_ms, sent.event_id, name, user, data)}

    async def directory(self) -> None:
        contact_id = self.chance.choice(self.contact_ids)
        emails = [one for one in self.emails if self.chance.random() < 0.5]
        phones = [one for one in self.phones if self.chance.random() < 0.3]
        given = ContactRecord(contact_id=contact_id, email_addresses=tuple(emails), phone_numbers=tuple(phones))
        await self.contacts.upsert(given)
        self.reference.contacts[contact_id] = {"emailAddresses": emails, "phoneNumbers": phones, "firstName": ""}

    async def gone(self) -> None:
        contact_id = self.chance.choice(self.contact_ids)
        await self.contacts.delete(contact_id)
        self.reference.contacts.pop(contact_id, None)

    async def link(self) -> None:
        user, contact_id = self.chance.choice(self.people), self.chance.choice(self.contact_ids)
        if self.reference.contact(contact_id) not in self.reference.contacts:
            assert await refusal(self.linker.link(user, contact_id, "agent")) == "RESOURCE_NOT_FOUND"
            return
        await self.linker.link(user, contact_id, "agent")
        self.reference.decide(user, "link", contact_id)

    async def unlink(self) -> None:
        user = self.chance.choice(self.people)
        await self.relinker.finish()
        contact_id, _ = self.reference.contact_of(user)
        if contact_id:
            await self.linker.unlink(user, "agent")
            self.reference.decide(user, "unlink", contact_id)

    async def rename(self) -> None:
        old, new = self.two(self.people)
        known = self.reference.renames.get(old, new)
        if known != new or self.reference.current(new) == old:
            reasons = {"ALREADY_REDIRECTED", "REDIRECT_CYCLE"}
            assert await refusal(self.linker.rename(old, new, "crm")) in reasons
            return
        await self.linker.rename(old, new, "crm")
        self.reference.renames[old] = new

    async def undo_rename(self) -> None:
        old = self.chance.choice([*self.reference.renames] or self.people)
        await self._if_decided(self.linker.undo_rename(old, "crm"))
        self.reference.renames.pop(old, None)

    async def merge(self) -> None:
        one, other = self.two(self.contact_ids)
        merges = self.reference.merges
        at = other
        while at in merges and at != one:
            at = merges[at]
        if merges.get(one, other) != other or at == one:
            reasons = {"ALREADY_REDIRECTED", "REDIRECT_CYCLE"}
            assert await refusal(self.relinker.merge(one, other, "crm")) in reasons
            return
        await self.relinker.merge(one, other, "crm")
        merges[one] = other

    async def undo_merge(self) -> None:
        one = self.chance.choice([*self.reference.merges] or self.contact_ids)
        await self._if_decided(self.relinker.undo_merge(one, "crm"))
        self.reference.merges.pop(one, None)

    async def _if_decided(self, undoing: Awaitable[object]) -> None:
        try:
            await undoing
        except RequestError as refused:
            if refused.reason != "NOT_REDIRECTED":
                raise


async def expect_right(story: Story, links: LinkStore) -> None:
    await story.relinker.finish()
    records = await links.get(story.people)
    for user in story.people:
        names = await links.renames.names([user])
        assert names.current(user) == story.reference.current(user)
        assert {*names.together(user)} == story.reference.names(user)
        record = records.get(user)
        last = record.decisions[-1] if record and record.decisions else None
        found = (last.contact_id, [*last.candidates]) if last else ("", [])
        assert found == story.reference.contact_of(user), user


@pytest.mark.timeout(120 + 5 * EXAMPLES)
async def test_in_any_order_the_links_are_those_of_the_reference(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts, relinker: Relinker
) -> None:
    """FOOTFALL_EXAMPLES=1000 is for the night."""
    for seed in range(EXAMPLES):
        story = Story(seed, consumer, linker, contacts, relinker)
        for number in range(STEPS):
            try:
                await story.step()
                if number % 10 == 9:
                    await expect_right(story, links)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {number}: {error}") from error
        # Everything undone, it is as if nothing had been renamed or merged.
        for old in [*story.reference.renames]:
            await linker.undo_rename(old, "crm")
        for one in [*story.reference.merges]:
            await relinker.undo_merge(one, "crm")
        story.reference.renames.clear()
        story.reference.merges.clear()
        await expect_right(story, links)


async def test_concurrent_renames_and_sign_ins_end_with_the_correct_links(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts, relinker: Relinker
) -> None:
    await contacts.upsert(contact("c1", "one@shop.example"))
    await contacts.upsert(contact("c2", "two@shop.example"))
    for seed in range(6):
        chance, mark = random.Random(seed), uuid.uuid4().hex  # noqa: S311
        old, new = f"old-{mark}", f"new-{mark}"
        at = now_ms()
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda old=old, at=at: sign_in(consumer, old, at, email="one@shop.example"),  # type: ignore[misc]
            lambda new=new, at=at: sign_in(consumer, new, at + 1, email="two@shop.example"),  # type: ignore[misc]
            lambda old=old, new=new: linker.rename(old, new, "crm"),  # type: ignore[misc]
        ]
        chance.shuffle(steps)
        await asyncio.gather(*(step() for step in steps))
        assert await linked(links, old, new) == {old: "c2", new: "c2"}, seed
        undoing = [
            linker.undo_rename(old, "crm"),
            sign_in(consumer, new, at + 2, email="two@shop.example", phone="030 1"),
            linker.relink([old, new]),
        ]
        chance.shuffle(undoing)
        await asyncio.gather(*undoing)
        assert await linked(links, old, new) == {old: "c1", new: "c2"}, seed
