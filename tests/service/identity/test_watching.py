"""WatchVisitors as one complete stream of changes: its last message about a visitor says what GetVisitor says."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_ADDRESS
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import ContactStatus, Visitor
from footfall_identity.changes import Kind
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_notices import ChangingContact
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import details_of

from tests.service.identity.conftest import visitor_notices
from tests.tools.eventually import eventually
from tests.tools.gate import gate_before
from tests.tools.identity import IDLE_MS, admitted, append, new_id, resolve
from tests.tools.process import Running
from tests.tools.visits import now_ms

LEAVE_MS = 300
Change = pb.VisitorChange


class Watch:
    """A caller of WatchVisitors that stores all messages and resumes when the call ends."""

    def __init__(self, **filters: Any) -> None:
        self.filters = filters
        self.messages: list[Any] = []
        self.token = ""
        self._task: asyncio.Task[None] | None = None

    async def begin(self, stub: Any) -> "Watch":
        """Watch; return when the server has answered."""
        request = pb.WatchVisitorsRequest(**self.filters, resume_token=self.token, announce_progress=True)
        has_begun = asyncio.Event()
        self._task = asyncio.create_task(self._read(stub.WatchVisitors(request), has_begun))
        await asyncio.wait_for(has_begun.wait(), 30)
        return self

    async def _read(self, call: Any, has_begun: asyncio.Event) -> None:
        with suppress(grpc.aio.AioRpcError):
            async for message in call:
                self.token = message.resume_token or self.token
                if message.HasField("visitor"):
                    self.messages.append(message)
                if self.token:
                    has_begun.set()

    async def end(self) -> None:
        """Stop watching."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def last(self) -> dict[str, Any]:
        """The last visitor of each visit."""
        return {message.visitor.visit_id: message.visitor for message in self.messages}

    def said(self, visit_id: str) -> list[str]:
        """The changes of a visit, in order."""
        return [_names(message) for message in self.messages if message.visitor.visit_id == visit_id]

    def has(self, count: int) -> bool:
        """Whether it has so many messages."""
        return len(self.messages) == count

    async def says(self, visit_id: str, *changes: str) -> Any:
        """Wait for exactly these changes of a visit; return the last visitor."""
        await eventually(lambda: len(self.said(visit_id)) >= len(changes))
        assert self.said(visit_id) == [*changes]
        return self.last()[visit_id]


def _names(message: Any) -> str:
    return " ".join(Change.Name(one).removeprefix("VISITOR_CHANGE_") for one in message.changes)


def contact(contact_id: str, *emails: str) -> Any:
    return pb.UpsertContactRequest(contact=contact_pb2.Contact(contact_id=contact_id, email_addresses=emails))


def sign_in(visit_id: str, person: str, **more: Any) -> Any:
    return admitted("SignIn", visit_id, now_ms(), person, data={"email": f"{person}@shop.example"}, **more)


@pytest.fixture
async def stub(running_identity: Running) -> AsyncIterator[Any]:
    """A client of an identity service whose visitors have left soon."""
    async with running_identity(IDENTITY_LEAVE_AFTER_MS=LEAVE_MS) as identity, identity.stub() as stub:
        yield stub


async def test_each_change_of_a_visitor_is_a_message(stub: Any, redis: Any) -> None:
    visit_id, page_id, ended = new_id(), new_id(), new_id()
    everything = await Watch().begin(stub)
    with_pages = await Watch(include_pages=True, contact_ids=["c1"]).begin(stub)
    assert everything.messages == []

    page = {"page_id": page_id, "url": "https://shop.example/cars"}
    await append(redis, admitted("PageEntered", visit_id, now_ms(), **page))
    visitor = await everything.says(visit_id, "ARRIVED")
    assert (visitor.contact_status, visitor.url) == (ContactStatus.CONTACT_STATUS_NONE, page["url"])
    await stub.UpsertContact(contact("c1", "ann@shop.example"))
    event = sign_in(visit_id, "ann")
    await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
    await everything.says(visit_id, "ARRIVED", "STATE IDENTITY")
    await append(redis, event)
    visitor = await everything.says(visit_id, "ARRIVED", "STATE IDENTITY", "CONTACT")
    assert (visitor.contact_id, everything.messages[-1].previous_contact_id) == ("c1", "")
    await append(redis, admitted("PageEntered", visit_id, now_ms(), page_id=page_id, url="https://shop.example/loans"))
    visitor = await with_pages.says(visit_id, "CONTACT", "PAGE")
    assert visitor.url == "https://shop.example/loans"
    await append(redis, admitted("PageExited", visit_id, now_ms(), page_id=page_id))
    left = await everything.says(visit_id, "ARRIVED", "STATE IDENTITY", "CONTACT", "LEFT")
    assert left.leave_time.ToMilliseconds() > 0
    await append(redis, admitted("PageEntered", visit_id, now_ms(), page_id=new_id()))
    await everything.says(visit_id, "ARRIVED", "STATE IDENTITY", "CONTACT", "LEFT", "RETURNED")
    await stub.DeleteContact(pb.DeleteContactRequest(contact_id="c1"))
    await everything.says(visit_id, "ARRIVED", "STATE IDENTITY", "CONTACT", "LEFT", "RETURNED", "CONTACT")
    assert everything.messages[-1].previous_contact_id == "c1"
    await eventually(lambda: with_pages.said(visit_id)[-1] == "CONTACT")  # the contact before a change counts too
    await append(redis, admitted("PageEntered", ended, now_ms() - IDLE_MS + 1_000, page_id=new_id()))
    await everything.says(ended, "ARRIVED", "ENDED")
    for watch in (everything, with_pages):
        await watch.end()


async def test_visits_of_staff_are_reported_to_those_who_ask_for_them(stub: Any) -> None:
    agent, customer = new_id(), new_id()
    of_staff: dict[str, Any] = {"staff_reason": STAFF_REASON_ADDRESS}
    filters: list[dict[str, Any]] = [{}, {"staff": "STAFF_FILTER_ONLY"}, {"staff": "STAFF_FILTER_INCLUDE"}]
    customers, only, all_ = [await Watch(**one).begin(stub) for one in [*filters[:2], {"visit_ids": [agent, customer]}]]
    events = [
        admitted("PageEntered", agent, now_ms(), **of_staff),
        sign_in(agent, "ann", **of_staff),
        sign_in(customer, "bob"),
        admitted("PageEntered", customer, now_ms(), **of_staff),
        admitted("SignOut", customer, now_ms() + 1),
    ]
    for count, event in enumerate(events, 1):
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
        await eventually(partial(all_.has, count))
    assert (await customers.says(customer, "ARRIVED STATE IDENTITY", "STAFF")).staff
    assert customers.said(agent) == []
    for watch in (only, all_):
        assert (await watch.says(agent, "ARRIVED", "STATE IDENTITY")).staff
    await all_.says(customer, "ARRIVED STATE IDENTITY", "STAFF", "STATE IDENTITY")
    await only.says(customer, "STAFF", "STATE IDENTITY")
    for filter_, found in zip(filters, (set(), {agent, customer}, {agent, customer}), strict=True):
        listed = await stub.ListVisitors(pb.ListVisitorsRequest(**filter_))
        assert {one.visit_id for one in listed.visitors} & {agent, customer} == found
        begun = await Watch(list_first=True, **filter_).begin(stub)
        assert {*begun.last()} & {agent, customer} == found
        await begun.end()
    for watch in (customers, only, all_):
        await watch.end()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListVisitors(pb.ListVisitorsRequest(staff=9))  # type: ignore[arg-type]  # of a later version
    assert details_of(refused.value).violations[0][0] == "staff"


async def test_filters_and_the_list_before_changes(stub: Any) -> None:
    ann, bob, late = (new_id() for _ in range(3))
    await stub.UpsertContact(contact("c1", "ann@shop.example"))
    await stub.LinkContact(pb.LinkContactRequest(identity_id="ann", contact_id="c1", actor="agent"))
    anonymous = admitted("PageEntered", new_id(), now_ms(), site="b")
    first = [sign_in(ann, "ann", site="a"), sign_in(bob, "bob", site="b"), anonymous]
    await stub.ResolveEvents(pb.ResolveEventsRequest(events=first))
    await asyncio.sleep(0.3)  # changes that happened just before the list may follow it
    expected: dict[str, list[dict[str, Any]]] = {
        ann: [{"contact_ids": ["c1"]}, {"identity_ids": ["ann", "x"]}, {"site": "a"}, {"visit_ids": [ann.upper()]}],
        bob: [{"in_sites": ["b"], "states": [3]}, {"sites": ["b"], "states": [2, 3]}],
    }
    watches = {
        visit_id: [await Watch(list_first=True, **one).begin(stub) for one in filters]
        for visit_id, filters in expected.items()
    }
    everything = await Watch(list_first=True).begin(stub)
    others = [sign_in(late, "eve", site="c"), admitted("SignOut", ann, now_ms() + 1, site="a")]
    others.append(admitted("SignOut", bob, now_ms() + 1, site="b"))
    await stub.ResolveEvents(pb.ResolveEventsRequest(events=others))
    await eventually(lambda: len(everything.messages) >= 6)
    assert sorted(map(_names, everything.messages)) == sorted(
        ["LISTED"] * 3 + ["ARRIVED STATE IDENTITY"] + ["STATE IDENTITY"] * 2
    )
    for visit_id, of_visit in watches.items():
        for watch in of_visit:
            await watch.says(visit_id, "LISTED", "STATE IDENTITY")
            assert watch.last().keys() == {visit_id}, watch.filters
            await watch.end()
    await everything.end()
    malformed: dict[str, Any] = {"visit_ids": ["x"], "identity_ids": [""], "contact_ids": ["x"] * 1_001}
    for field, value in malformed.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WatchVisitors(pb.WatchVisitorsRequest(**{field: value})).read()
        assert details_of(refused.value).violations[0][0].partition("[")[0] == field


async def test_a_contact_change_of_an_identity_with_many_visits_reports_the_latest(
    partitions: Partitions, store: VisitorStore
) -> None:
    notices = visitor_notices(partitions, store)
    events = [sign_in(new_id(), "bot") for _ in range(130 * len(partitions.numbers))]
    await resolve(store, *events)
    async with notices.changing([ChangingContact("bot", "c1", [])]):
        pass
    for number in partitions.numbers:
        noted = [one for one in await store.changes(number, "0-0", 1_000) if Kind.CONTACT in one.kinds]
        assert len(noted) == min(100, sum(partitions.number_of(event.visit_id) == number for event in events))


@pytest.mark.long
async def test_a_contact_that_is_unknown_while_mongodb_does_not_answer_follows(
    running_identity: Running, redis: Any, mongo_url: str
) -> None:
    visit_id = new_id()
    async with (
        gate_before(mongo_url) as gate,
        running_identity(MONGO_URL=gate.url, IDENTITY_CONTACT_TIMEOUT_MS=200) as identity,
        identity.stub() as stub,
    ):
        await stub.UpsertContact(contact("c1", "ann@shop.example"))
        event = sign_in(visit_id, "ann")
        await append(redis, event)
        await eventually(lambda: _is_linked(stub, visit_id))
        await asyncio.sleep(0.3)  # changes that happened just before may be reported
        watch = await Watch().begin(stub)
        gate.freeze()
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[admitted("SignOut", visit_id, now_ms() + 1)]))
        visitor = await watch.says(visit_id, "STATE IDENTITY")
        assert visitor.contact_status == ContactStatus.CONTACT_STATUS_UNKNOWN
        await asyncio.sleep(7)
        assert watch.said(visit_id) == ["STATE IDENTITY"]
        gate.thaw()
        visitor = await watch.says(visit_id, "STATE IDENTITY", "CONTACT")
        assert (visitor.contact_status, visitor.contact_id) == (ContactStatus.CONTACT_STATUS_LINKED, "c1")
        await watch.end()


async def _is_linked(stub: Any, visit_id: str) -> None:
    visitor = (await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id))).visitor
    assert visitor.contact_status == ContactStatus.CONTACT_STATUS_LINKED


@pytest.mark.parametrize(
    ("seed", "kills"), [(1, 1), *(pytest.param(seed, 3, marks=pytest.mark.long) for seed in range(2, 6))]
)
async def test_the_last_message_of_each_visit_says_what_get_visitor_says(
    running_identity: Running, redis: Any, seed: int, kills: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    visits = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(12)]
    watches = [Watch(include_pages=True, list_first=True), Watch(include_pages=True, in_sites=["default"])]
    for _ in range(kills):
        async with running_identity(IDENTITY_LEAVE_AFTER_MS=LEAVE_MS) as identity, identity.stub() as stub:
            for watch in watches:
                await watch.begin(stub)
            for _ in range(60):
                await _something(chance, stub, redis, visits)
                if chance.random() < 0.05:
                    watch = chance.choice(watches)
                    await watch.end()
                    await watch.begin(stub)
            identity.process.kill()
            for watch in watches:
                await watch.end()
    async with running_identity(IDENTITY_LEAVE_AFTER_MS=LEAVE_MS) as identity, identity.stub() as stub:
        for watch in watches:
            await watch.begin(stub)
        await asyncio.sleep(LEAVE_MS / 1000)

        async def agree() -> None:
            for visit_id in visits:
                with suppress(grpc.aio.AioRpcError):
                    now = (await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id))).visitor
                    for watch in watches:
                        assert _compared(watch.last().get(visit_id, Visitor())) == _compared(now)

        await eventually(agree, timeout=20)
        if kills > 1:  # enough has happened
            kinds = {"ARRIVED", "STATE", "IDENTITY", "CONTACT", "PAGE", "LEFT", "RETURNED", "ENDED"}
            await eventually(lambda: {one for m in watches[0].messages for one in _names(m).split()} >= kinds)
        for watch in watches:
            await watch.end()


def _compared(visitor: Visitor) -> Visitor:
    """The fields that messages promise: events that change nothing else move the times."""
    own = Visitor()
    own.CopyFrom(visitor)
    for field in ("last_event_time", "start_time", "global_visit_id"):
        own.ClearField(field)
    return own


async def _something(chance: random.Random, stub: Any, redis: Any, visits: list[str]) -> None:
    """Let something happen: an event, often of a page, or a contact that is written, linked, unlinked or deleted."""
    person, contact_id = chance.choice("abc"), chance.choice(["c1", "c2"])
    do = chance.choices(["event", "upsert", "delete", "link", "unlink", "wait"], [12, 2, 1, 1, 1, 1])[0]
    with suppress(grpc.aio.AioRpcError):  # such as: not linked
        if do == "event":
            event = _event(chance, chance.choice(visits), person)
            if event.transition and chance.random() < 0.7:
                await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
            await append(redis, event)
        elif do == "upsert":
            await stub.UpsertContact(contact(contact_id, f"{person}@shop.example"))
        elif do == "delete":
            await stub.DeleteContact(pb.DeleteContactRequest(contact_id=contact_id))
        elif do == "link":
            await stub.LinkContact(pb.LinkContactRequest(identity_id=person, contact_id=contact_id, actor="x"))
        elif do == "unlink":
            await stub.UnlinkContact(pb.UnlinkContactRequest(identity_id=person, actor="x"))
        else:
            await asyncio.sleep(0.3)


def _event(chance: random.Random, visit_id: str, person: str) -> Any:
    name = chance.choice(["PageEntered", "PageEntered", "PageExited", "PageExited", "SignIn", "UserInfo", "SignOut"])
    page_id = str(uuid.UUID(int=uuid.UUID(visit_id).int ^ chance.randint(1, 2)))
    more: dict[str, Any] = {"url": f"https://shop.example/{chance.randint(1, 3)}", "page_id": page_id}
    at_ms = now_ms() - (IDLE_MS - 3_000 if visit_id < "4" else 0)  # these visits end during the test
    if name in {"SignIn", "UserInfo"}:
        return admitted(name, visit_id, at_ms, person, data={"email": f"{person}@shop.example"}, **more)
    return admitted(name, visit_id, at_ms, **more)
