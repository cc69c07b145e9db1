"""Values that too many identities give, and identities used on too many devices: links by rules end and return."""

import asyncio
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
import pytest
from footfall.event.v1.event_pb2 import ASSURANCE_CLAIMED, Event
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.identity_policy import LinkPolicy, LinkRules
from footfall_eventlog.match_keys import Rule
from footfall_identity import metrics
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.generic_values import GenericValue
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.judge import Judge, update_metrics
from footfall_identity.link_decisions import manual_decisions
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.matching import Sharing, Status, UnusedReason, match_contact
from footfall_identity.partitions import Partitions
from footfall_identity.record_writer import RecordWriter
from footfall_identity.relinking import Relinker
from footfall_identity.value_counting import GenericValues
from footfall_identity.visitor_notices import VisitorNotices
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import RequestError
from footfall_timeline import Assurance
from msgspec.structs import replace

from tests.service.identity.conftest import TIMEOUT_MS, contact_writer, record_writer
from tests.tools.contacts import Contacts
from tests.tools.eventually import eventually
from tests.tools.identity import ERASURE_KEY, admitted, append, new_id
from tests.tools.process import Running
from tests.tools.variants import further
from tests.tools.visits import now_ms

ORDERS = int(os.environ.get("FOOTFALL_ORDERS", "3"))
"""Orders in which 1,000 identities give the same number."""
NUMBER, KEY = "030 1234567", "phone:+49301234567"
LIMITS = LinkRules(max_identities_per_value=3, max_devices_per_day=3)
PHONE = ((Rule.PHONE_NUMBER, UnusedReason.GENERIC_VALUE),)

Decided = tuple[Status, Rule, str, tuple[str, ...], tuple[tuple[Rule, UnusedReason], ...]]
"""Status, rule, contact, candidates, and the rules that were not used, with the reasons."""

UNLINKED: Decided = (Status.UNLINKED, Rule.NONE, "", (), ())
LINKED: Decided = (Status.LINKED, Rule.PHONE_NUMBER, "c1", (), ())
GENERIC: Decided = (Status.UNLINKED, Rule.NONE, "", (), PHONE)


@pytest.fixture
def linker(links: LinkStore) -> Linker:
    return Linker(links, LinkPolicy(rules=LIMITS))


class Site:
    """What pages say, and the identity service that reads it."""

    def __init__(self, links: LinkStore, linker: Linker, writer: RecordWriter) -> None:
        self.links = links
        self.linker = linker
        self._writer = writer
        self.relinker = Relinker(links, linker, wait_ms=0, max_wait_ms=TIMEOUT_MS)
        self.contacts = Contacts(contact_writer(links, self.relinker))

    async def arrive(self, *events: Event) -> None:
        """Write the records of events, and link them."""
        await self._writer.import_past([(event, transition_of(event)) for event in events], [])

    async def finished(self, *people: str) -> dict[str, Decided]:
        """The decisions about these people, when all that is pending is done."""
        await self.relinker.finish()
        return await decided(self.links, people)


@pytest.fixture
def site(links: LinkStore, linker: Linker, writer: RecordWriter) -> Site:
    return Site(links, linker, writer)


async def decided(links: LinkStore, people: Iterable[str]) -> dict[str, Decided]:
    found = await links.get(people)
    return {person: _decided(found[person]) for person in people}


def _decided(record: IdentityRecord) -> Decided:
    if not record.decisions:
        return UNLINKED
    last = record.decisions[-1]
    unused = tuple((one.rule, one.reason) for one in last.unused)
    return last.status, last.rule, last.contact_id, last.candidates, unused


def sign_in(person: str, at_ms: int = 0, *, proven: bool = False, device: str = "", **data: str) -> Event:
    more: dict[str, Any] = {"global_visit_id": device} if device else {}
    if proven:
        claims = {"phone_number": data.pop("phone")}
        more |= {"assurance": Assurance.PROVEN.value, "proven_json": _json(claims)}
    return admitted("SignIn", new_id(), at_ms or now_ms(), person, data=data, **more)


def _json(claims: dict[str, str]) -> bytes:
    return "{{{}}}".format(",".join(f'"{name}":"{value}"' for name, value in claims.items())).encode()


def contact(contact_id: str = "c1", *phones: str, emails: tuple[str, ...] = ()) -> ContactRecord:
    return ContactRecord(contact_id=contact_id, phone_numbers=phones or (NUMBER,), email_addresses=emails)


async def values(links: LinkStore) -> dict[str, tuple[int, bool]]:
    """The generic values: assurance, and whether each is allowed."""
    page = await links.generic_values.page("", 1_000)
    assert not any(value.is_stale for value in page)
    return {value.key: (value.assurance, value.is_allowed) for value in page}


PEOPLE = [f"person {number}" for number in range(4)]


async def make_generic(site: Site) -> None:
    await site.contacts.upsert(contact())
    await site.arrive(*(sign_in(person, phone=NUMBER) for person in PEOPLE))
    assert await site.finished(*PEOPLE) == dict.fromkeys(PEOPLE, GENERIC)


async def test_rules_do_not_link_by_a_value_that_too_many_give_and_links_of_before_end(site: Site) -> None:
    await site.contacts.upsert(contact())
    for person in PEOPLE[:3]:
        await site.arrive(sign_in(person, phone=NUMBER))
    assert await site.finished(*PEOPLE[:3]) == dict.fromkeys(PEOPLE[:3], LINKED)
    assert await values(site.links) == {}
    await site.arrive(sign_in(PEOPLE[3], phone="+49 30 1234567"))
    assert await site.finished(*PEOPLE) == dict.fromkeys(PEOPLE, GENERIC)
    assert await values(site.links) == {KEY: (Assurance.CLAIMED, False)}
    record = (await site.links.get(PEOPLE[:1]))[PEOPLE[0]]
    assert [decision.contact_id for decision in record.decisions] == ["c1", ""]
    assert record.decisions[-1].unused[0].match_key == record.match_keys.phone, "with its evidence"


async def test_another_rule_decides_instead(site: Site) -> None:
    await make_generic(site)
    await site.contacts.upsert(contact("c2", "+49 30 7654321", emails=("ann@shop.example",)))
    await site.arrive(sign_in("ann", phone=NUMBER, email="ann@shop.example"))
    assert (await site.finished("ann"))["ann"] == (Status.LINKED, Rule.EMAIL_ADDRESS, "c2", (), ())
    await site.arrive(sign_in("bob", phone=NUMBER, firstName="Bob", lastName="Lee"))
    await site.contacts.upsert(replace(contact("c3", "+49 30 7654322"), first_name="bob", last_name="lee"))
    assert (await site.finished("bob"))["bob"] == (Status.LINKED, Rule.NAME, "c3", (), PHONE)


async def test_a_value_that_is_given_by_fewer_again_links_again(site: Site) -> None:
    await make_generic(site)
    await site.arrive(sign_in(PEOPLE[0], now_ms() + 1, phone="030 7654321"))
    found = await site.finished(*PEOPLE)
    assert found == {PEOPLE[0]: UNLINKED} | dict.fromkeys(PEOPLE[1:], LINKED)
    assert await values(site.links) == {}


async def test_an_erasure_counts_and_leaves_nothing(site: Site, eraser: Eraser) -> None:
    await make_generic(site)
    assert (await eraser.erase(PEOPLE[0], "officer")).identity_erased
    assert await site.links.get(PEOPLE[:1]) == {}
    assert await site.finished(*PEOPLE[1:]) == dict.fromkeys(PEOPLE[1:], LINKED)
    assert await values(site.links) == {}
    for person in PEOPLE[1:]:
        await eraser.erase(person, "officer")
    await site.relinker.finish()
    assert await site.links.page("", 10, "") == []


async def test_metrics_count_what_is_shared_too_much(site: Site) -> None:
    await make_generic(site)
    await site.arrive(*(sign_in("kiosk", device=new_id()) for _ in range(4)))

    async def shown() -> tuple[float, float]:
        await update_metrics(site.links, site.linker)
        return metrics.GENERIC_VALUES._value.get(), metrics.SHARED_IDENTITIES._value.get()

    assert await shown() == (1, 1)
    [value] = await site.links.generic_values.page("", 10)
    await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=True)
    assert await shown() == (0, 1)


async def test_a_decision_by_hand_lets_links_return_and_ends_with_the_last_giver(site: Site, eraser: Eraser) -> None:
    await make_generic(site)
    [value] = await site.links.generic_values.page("", 10)
    allowed = await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=True)
    assert (allowed.is_allowed, allowed.actor, allowed.decide_ms >= value.since_ms) == (True, "agent", True)
    again = await site.linker.generic_values.decide(value.value_id, "another", is_allowed=True)
    assert again.actor == "agent", "the same decision again changes nothing"
    assert await site.finished(*PEOPLE) == dict.fromkeys(PEOPLE, LINKED)
    await site.arrive(sign_in("one more", phone=NUMBER))
    assert (await site.finished("one more"))["one more"] == LINKED
    await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=False)
    assert await site.finished(*PEOPLE) == dict.fromkeys(PEOPLE, GENERIC)
    await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=True)
    for person in PEOPLE:
        await eraser.erase(person, "officer")
    assert await values(site.links) == {KEY: (Assurance.NONE, True)}, "it holds while anybody gives the value"
    await eraser.erase("one more", "officer")
    assert await values(site.links) == {}
    with pytest.raises(RequestError) as unknown:
        await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=True)
    assert unknown.value.reason == "RESOURCE_NOT_FOUND"


async def test_links_by_hand_stay(site: Site) -> None:
    await site.contacts.upsert(contact())
    await site.linker.link(PEOPLE[0], "c1", "agent")
    await make_generic_of(site, PEOPLE)
    assert (await site.finished(PEOPLE[0]))[PEOPLE[0]] == (Status.LINKED, Rule.MANUAL, "c1", (), ())
    assert (await site.finished(PEOPLE[1]))[PEOPLE[1]] == GENERIC


async def make_generic_of(site: Site, people: Sequence[str]) -> None:
    await site.arrive(*(sign_in(person, phone=NUMBER) for person in people))


async def test_who_only_claims_a_value_does_not_keep_others_from_proving_it(site: Site) -> None:
    await make_generic(site)
    proving = [f"proving {number}" for number in range(4)]
    await site.arrive(*(sign_in(person, proven=True, phone=NUMBER) for person in proving[:3]))
    assert await site.finished(*proving[:3]) == dict.fromkeys(proving[:3], LINKED)
    await site.arrive(sign_in(proving[3], proven=True, phone=NUMBER))
    assert await site.finished(*proving) == dict.fromkeys(proving, GENERIC)
    assert await values(site.links) == {KEY: (Assurance.PROVEN, False)}


async def test_what_a_crash_interrupts_is_finished_by_another_process(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after the record is written, and after the value is written, before identities are noted."""
    await site.contacts.upsert(contact())
    await make_generic_of(site, PEOPLE[:3])
    crash = RequestError.unavailable("crash", 0)

    async def crashing(*_: object) -> None:
        raise crash

    with monkeypatch.context() as patch:
        patch.setattr(GenericValues, "count_changed", crashing)
        with pytest.raises(RequestError):
            await make_generic_of(site, PEOPLE[3:])
    assert await values(site.links) == {}
    with monkeypatch.context() as patch:
        patch.setattr(GenericValues, "announce", crashing)
        with pytest.raises(RequestError):
            await site.linker.relink(PEOPLE[3:])
    [value] = await site.links.generic_values.page("", 10)
    assert value.is_stale
    await site.linker.relink(PEOPLE[3:])  # it is linked; only the mark says that the others have to be
    assert await site.finished(*PEOPLE) == dict.fromkeys(PEOPLE, GENERIC)
    assert await values(site.links) == {KEY: (Assurance.CLAIMED, False)}


async def test_other_limits_and_records_of_an_earlier_version_are_judged_again(site: Site) -> None:
    await site.contacts.upsert(contact())
    proving = [f"proving {number}" for number in range(4)]
    devices = [new_id() for _ in range(4)]
    await site.arrive(*(sign_in(person, proven=True, phone=NUMBER) for person in proving))
    await site.arrive(*(sign_in("kiosk", device=device, email="kiosk@shop.example") for device in devices))
    await site.contacts.upsert(contact("c2", "+49 30 7654321", emails=("kiosk@shop.example",)))
    as_before = partial(replace, proven_keys=())
    await site.links.change(dict.fromkeys(proving, as_before))
    for value in await site.links.generic_values.page("", 10):
        await site.links.generic_values.put(value, replace(value, assurance=0, is_stale=False))
    await Judge(site.links, site.linker).apply()
    found = await site.finished(*proving, "kiosk")
    shared = ((Rule.EMAIL_ADDRESS, UnusedReason.SHARED_IDENTITY),)
    assert found == dict.fromkeys(proving, GENERIC) | {"kiosk": (Status.UNLINKED, Rule.NONE, "", (), shared)}
    assert (await site.links.link_rules())[0] == LIMITS
    higher = LinkRules(max_identities_per_value=4, max_devices_per_day=4)
    other = Linker(site.links, LinkPolicy(rules=higher))
    await Judge(site.links, other).apply()
    await Relinker(site.links, other, wait_ms=0, max_wait_ms=0).finish()
    by_address = (Status.LINKED, Rule.EMAIL_ADDRESS, "c2", (), ())
    assert await decided(site.links, [*proving, "kiosk"]) == dict.fromkeys(proving, LINKED) | {"kiosk": by_address}
    assert await values(site.links) == {}


async def test_an_identity_on_too_many_devices_is_linked_by_proofs_alone(site: Site) -> None:
    await site.contacts.upsert(contact())
    devices = [new_id() for _ in range(4)]
    for device in [*devices[:3], *devices[:3]]:
        await site.arrive(sign_in("kiosk", device=device, phone=NUMBER))
    assert (await site.finished("kiosk"))["kiosk"] == LINKED
    await site.arrive(sign_in("kiosk", device=devices[3], phone=NUMBER))
    shared = ((Rule.PHONE_NUMBER, UnusedReason.SHARED_IDENTITY),)
    assert (await site.finished("kiosk"))["kiosk"] == (Status.UNLINKED, Rule.NONE, "", (), shared)
    await site.arrive(sign_in("kiosk", device=devices[3], proven=True, phone=NUMBER))
    assert (await site.finished("kiosk"))["kiosk"] == LINKED


class Facts(NamedTuple):
    """What happens, in any order: sign-ins of people, and contacts that are stored."""

    people: list[str]
    events: list[Event]
    contacts: list[ContactRecord]


def facts(chance: random.Random, people: int) -> Facts:
    """People who claim or prove numbers that many give, some another one later; and some on many devices."""
    names = [f"person {number:04}" for number in range(people)]
    numbers = [f"+4930{1_000_000 + number}" for number in range(people // 4)]
    at_ms, devices = now_ms() - 1_000_000, [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(4)]
    events = []
    for place, person in enumerate(names):
        if place % 8 == 0:
            events += [sign_in(person, at_ms, device=device, phone=numbers[-1]) for device in devices]
            continue
        for step in range(chance.choice([1, 1, 2])):
            phone = numbers[0] if place % 2 else chance.choice(numbers[:-1])
            is_proven = chance.random() < 0.15
            events.append(sign_in(person, at_ms + step, proven=is_proven, device=chance.choice(devices), phone=phone))
    stored = [contact(f"contact {place}", number) for place, number in enumerate(numbers)]
    return Facts(names, events, [*stored, contact("contact x", numbers[1])])


async def assert_right(site: Site, limits: LinkRules, people: list[str]) -> None:
    """Assert that the links follow from the records as they are now, by the rules alone."""
    records = (await site.links.get(people)).values()
    given = Counter(key for record in records for key in record.keys)
    proven = Counter(key for record in records for key in record.proven_keys)
    most = limits.max_identities_per_value
    generic = {
        key: (Assurance.PROVEN if proven[key] > most else Assurance.CLAIMED).value
        for key, count in given.items()
        if count > most
    }
    assert {key: value[0] for key, value in (await values(site.links)).items() if value[0]} == generic
    matches = await site.links.matches(dict.fromkeys(given, 100))
    for record in records:
        assert (record.is_due, record.left_keys) == (False, ())
        assert not manual_decisions([record]).ruled_out
        sharing = Sharing(generic, record.is_shared(limits.max_devices_per_day))
        expected = match_contact(record.match_keys, "", (), {}, matches, sharing=sharing)
        unused = tuple((one.rule, one.reason) for one in expected.unused)
        assert _decided(record) == (
            expected.status,
            expected.rule,
            expected.contact_id,
            expected.candidates,
            unused,
        )


NewSite = Callable[[LinkRules], Awaitable[Site]]


@pytest.fixture
async def new_site(
    mongo_url: str, partitions: Partitions, store: VisitorStore, notices: VisitorNotices
) -> AsyncIterator[NewSite]:
    """Make an identity service with an empty database."""
    opened: list[LinkStore] = []

    async def make(limits: LinkRules) -> Site:
        database = f"test_{uuid.uuid4().hex}"
        links = LinkStore(mongo_url, database, timeout_ms=TIMEOUT_MS, erasure_secret=ERASURE_KEY, notices=notices)
        opened.append(links)
        await links.prepare()
        linker = Linker(links, LinkPolicy(rules=limits))
        return Site(links, linker, record_writer(partitions, store, links, linker))

    yield make
    for links in opened:
        await links.close()


async def arrive_in_any_order(site: Site, chance: random.Random, of: Facts, *, at_a_time: int, tasks: int) -> None:
    """Let facts arrive in an order of their own, to several processes at the same time, some twice."""
    arriving: list[Event | ContactRecord] = [*of.events, *of.contacts, *chance.sample(of.events, len(of.events) // 10)]
    chance.shuffle(arriving)
    parts = iter([arriving[start : start + at_a_time] for start in range(0, len(arriving), at_a_time)])

    async def process() -> None:
        for part in parts:
            await site.arrive(*(one for one in part if isinstance(one, Event)))
            for one in part:
                if isinstance(one, ContactRecord):
                    await site.contacts.upsert(one)

    await asyncio.gather(*(process() for _ in range(tasks)))


async def outcomes(new_site: NewSite, of: Facts, limits: LinkRules, orders: int, **how: int) -> list[Any]:
    """The decisions after each of several orders, without repetitions."""
    different: list[Any] = []
    for seed in range(orders):
        site = await new_site(limits)
        await arrive_in_any_order(site, random.Random(seed), of, **how)  # noqa: S311
        found = await site.finished(*of.people)
        await assert_right(site, limits, of.people)
        different += [found] if found not in different else []
    return different


@pytest.mark.parametrize("seed", [0, further(1)])
async def test_the_decisions_depend_on_the_facts_and_not_on_their_order(new_site: NewSite, seed: int) -> None:
    limits = LinkRules(max_identities_per_value=5, max_devices_per_day=2)
    of = facts(random.Random(seed), 32)  # noqa: S311
    [found] = await outcomes(new_site, of, limits, 3, at_a_time=4, tasks=3)
    reasons = {reason for *_, unused in found.values() for _, reason in unused}
    assert reasons == {*UnusedReason}, "otherwise the facts show little"
    assert {status for status, *_ in found.values()} > {Status.UNLINKED}


@pytest.mark.long
@pytest.mark.timeout(1_800 + 300 * ORDERS)
async def test_a_number_of_1000_identities_links_none_of_them_in_any_order(new_site: NewSite) -> None:
    """FOOTFALL_ORDERS=100 is for the night. The fold alone in 100 orders: tests/unit/test_identity_sharing.py."""
    people = [f"person {number:04}" for number in range(1_000)]
    at_ms = now_ms() - 1_000_000
    events = [sign_in(person, at_ms + place, phone=NUMBER) for place, person in enumerate(people)]
    of = Facts(people, events, [contact()])
    found = await outcomes(new_site, of, LinkRules(), ORDERS, at_a_time=100, tasks=2)
    assert found == [dict.fromkeys(people, GENERIC)]
    site = await new_site(LinkRules())
    await arrive_in_any_order(site, random.Random(0), of, at_a_time=100, tasks=2)  # noqa: S311
    await site.relinker.finish()
    [value] = await site.links.generic_values.page("", 10)
    await site.linker.generic_values.decide(value.value_id, "agent", is_allowed=True)
    assert await site.finished(*people) == dict.fromkeys(people, LINKED)


async def test_a_service_lists_and_decides_generic_values_and_lists_shared_identities(
    running_identity: Running, redis: Any
) -> None:
    limits = {"IDENTITY_MAX_IDENTITIES_PER_VALUE": 3, "IDENTITY_MAX_DEVICES_PER_DAY": 2}
    async with running_identity(IDENTITY_PHONE_REGION="DE", **limits) as process, process.stub() as stub:
        stored = contact_pb2.Contact(contact_id="c1", phone_numbers=[NUMBER])
        await stub.UpsertContact(pb.UpsertContactRequest(contact=stored))
        events = [sign_in(person, phone=NUMBER) for person in PEOPLE]
        kiosk = [sign_in("kiosk", device=new_id(), email="kiosk@shop.example") for _ in range(3)]
        await append(redis, *events, *kiosk)

        async def listed() -> contact_pb2.GenericValue:
            page: pb.ListGenericValuesResponse = await stub.ListGenericValues(pb.ListGenericValuesRequest())
            assert [value.identity_count for value in page.values] == [4]
            return page.values[0]

        async def links() -> set[tuple[str, int]]:
            requests = [pb.ListContactLinksRequest(identity_id=person, page_size=1) for person in PEOPLE]
            pages = [await stub.ListContactLinks(request) for request in requests]
            return {(one.contact_id, len(one.unused_evidence)) for page in pages for one in page.links}

        async def are(expected: set[tuple[str, int]]) -> None:
            assert await links() == expected

        value = await eventually(listed, timeout=30)
        assert (value.rule, value.value) == (contact_pb2.LINK_RULE_PHONE_NUMBER, "+49301234567")
        assert (value.assurance, value.allowed, value.actor) == (ASSURANCE_CLAIMED, False, "")
        await eventually(partial(are, {("", 1)}), timeout=30)
        of_people = pb.CountLinksRequest(identity_ids=PEOPLE)
        assert await stub.CountLinks(of_people) == pb.CountLinksResponse(identity_count=4, generic_count=4)
        [link] = (await stub.ListContactLinks(pb.ListContactLinksRequest(identity_id=PEOPLE[0], page_size=1))).links
        [unused] = link.unused_evidence
        assert unused.attribute_code == contact_pb2.LINK_ATTRIBUTE_PHONE_NUMBER
        assert unused.unused_reason == contact_pb2.UNUSED_REASON_GENERIC_VALUE
        assert unused.visit_id == events[0].visit_id
        decide = pb.DecideGenericValueRequest(value_id=value.value_id, allowed=True, actor="agent")
        decided_now = (await stub.DecideGenericValue(decide)).value
        assert (decided_now.allowed, decided_now.actor) == (True, "agent")
        await eventually(partial(are, {("c1", 0)}), timeout=30)

        counted = pb.CountLinksRequest(identity_ids=[*PEOPLE, "kiosk", "nobody"])
        assert await stub.CountLinks(counted) == pb.CountLinksResponse(identity_count=5, linked_count=4, shared_count=1)
        [shared] = (await stub.ListIdentities(pb.ListIdentitiesRequest(shared_only=True))).identities
        assert (shared.identity_id, shared.shared) == ("kiosk", True)
        assert [day.device_count for day in shared.device_days] == [3]
        ann = (await stub.GetIdentity(pb.GetIdentityRequest(identity_id=PEOPLE[0]))).identity
        assert (ann.shared, [day.device_count for day in ann.device_days]) == (False, [1])
        of_site = pb.GetIdentityRequest(identity_id="kiosk", sites=["default"])
        limited = (await stub.GetIdentity(of_site)).identity
        assert (limited.shared, len(limited.device_days)) == (False, 0)
        for request, method, field in (
            (pb.ListIdentitiesRequest(shared_only=True, sites=["default"]), stub.ListIdentities, "shared_only"),
            (pb.DecideGenericValueRequest(actor="agent"), stub.DecideGenericValue, "value_id"),
            (pb.DecideGenericValueRequest(value_id="x"), stub.DecideGenericValue, "actor"),
            (pb.ListGenericValuesRequest(page_token="x"), stub.ListGenericValues, "page_token"),
            (pb.CountLinksRequest(identity_ids=["x"] * 1_001), stub.CountLinks, "identity_ids"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(request)
            assert field in str(refused.value.details())
        assert "+49301234567" not in process.output()


async def test_values_are_listed_in_pages(running_identity: Running, links: LinkStore) -> None:
    keys = [f"email:person{number}@shop.example" for number in range(5)]
    for key in keys:
        await links.generic_values.put(None, replace(GenericValue.new(key), assurance=1, since_ms=1))
    async with running_identity() as process, process.stub() as stub:
        found: list[str] = []
        request = pb.ListGenericValuesRequest(page_size=2)
        while True:
            page = await stub.ListGenericValues(request)
            found += [value.value for value in page.values]
            assert len(page.values) <= 2
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    assert sorted(found) == [key.removeprefix("email:") for key in keys]
