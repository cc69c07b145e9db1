"""The context of a customer while identity does not answer, and its limit of size."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_ADDRESS
from footfall.history.v1 import customer_context_pb2 as parts
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.site_groups import SiteGroups
from footfall_history.identity_client import IdentityClient
from footfall_history.ingest.attribution import Attributor
from footfall_history.queries.customer_context import CustomerContexts
from footfall_history.queries.interactions import InteractionReader
from footfall_history.queries.reader import Reader
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.errors import details_of
from footfall_timeline import scoped_visit_id

from tests.service.history.conftest import IDLE_MS, Listener
from tests.tools.batches import batch, context
from tests.tools.history import entry, logged
from tests.tools.ports import free_ports
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

OF_IDENTITY = [parts.CONTEXT_PART_CONTACT, parts.CONTEXT_PART_IDENTITIES, parts.CONTEXT_PART_VISITS]
OF_HISTORY = [parts.CONTEXT_PART_PAGES, parts.CONTEXT_PART_EVENTS, parts.CONTEXT_PART_INTERACTIONS]


async def test_without_identity_pages_and_events_are_shown_and_the_other_parts_are_named(
    stub: Any, attributor: Attributor
) -> None:
    dana = Story("dana@shop.example")
    await attributor.store([dana.entry()])
    customers: list[dict[str, Any]] = [{"identity_id": dana.person}, {"visit_id": dana.visit_id}]
    for customer in customers:
        found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(**customer))
        assert (found.status, found.unavailable_parts) == (parts.CONTEXT_STATUS_UNKNOWN, OF_IDENTITY)
        assert [one.page.page_id for one in found.pages] == [dana.cart, dana.loans]
        assert [one.before_sign_in for one in found.pages] == [False, True]
        assert [one.event.event.event_name for one in found.events] == ["AddToCart"]
    by_phone = await stub.GetCustomerContext(pb.GetCustomerContextRequest(phone="+49301234567"))
    assert by_phone.unavailable_parts == [*OF_IDENTITY, *OF_HISTORY]


async def test_what_an_agent_does_as_the_customer_is_shown_only_for_the_visit_of_the_agent(
    stub: Any, attributor: Attributor
) -> None:
    own, of_agent = Story("dana@shop.example"), Story("dana@shop.example")
    of_agent.events[3]["staffReason"] = STAFF_REASON_ADDRESS
    await attributor.store([own.entry(), of_agent.entry()])
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id=own.person))
    assert {one.page.visit_id for one in found.pages} == {own.visit_id}
    assert [one.event.event.event_id for one in found.events] == [own.event_id(3)]
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(visit_id=of_agent.visit_id))
    assert {one.page.visit_id for one in found.pages} == {own.visit_id, of_agent.visit_id}
    assert {one.event.event.staff_reason for one in found.events} == {STAFF_REASON_ADDRESS, 0}
    visit = (await stub.GetVisit(pb.GetVisitRequest(visit_id=of_agent.visit_id))).visit
    assert visit.staff


@pytest.mark.parametrize(("visits", "reads_of_events"), [(1, 1), (3, 1), (4, 2)])
async def test_of_a_few_short_visits_each_part_is_read_with_one_command(
    stub: Any, attributor: Attributor, listener: Listener, visits: int, reads_of_events: int
) -> None:
    stories = [Story("dana@shop.example", now_ms() - n * 60_000) for n in range(1, visits + 1)]
    await attributor.store([story.entry() for story in stories])
    await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id="dana@shop.example"))  # connects
    listener.commands.clear()
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id="dana@shop.example"))
    assert [one.page.page_id for one in found.pages] == [page for one in stories for page in (one.cart, one.loans)]
    assert [one.before_sign_in for one in found.pages] == [False, True] * visits
    assert [one.event.event.event_id for one in found.events] == [one.event_id(3) for one in stories]
    reads = Counter(command["aggregate"] for command in listener.commands)
    assert reads == {"visits": 1, "events": reads_of_events, "interactions": 1}


@pytest.mark.parametrize("minutes", [1, 200])
@pytest.mark.parametrize("is_cart_new", [True, False])
async def test_a_visit_with_many_events_shows_the_newest_of_each_kind(
    stub: Any, attributor: Attributor, minutes: int, *, is_cart_new: bool
) -> None:
    visit, person, length_ms = str(uuid.uuid4()), f"{uuid.uuid4()}@shop.example", minutes * 60_000
    at_ms = now_ms() - length_ms - 1_000
    pages = [
        event(name, visit, at_ms + length_ms * n // 60 + late, pageID=f"{n % 50:032X}")
        for n in range(60)
        for name, late in (("PageEntered", 10), ("PageExited", 20))
    ]
    cart = [event("AddToCart", visit, at_ms + (length_ms if is_cart_new else 0) + n) for n in range(25)]
    await attributor.store([entry([event("SignIn", visit, at_ms, person), *cart, *pages])])
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id=person))
    listed = await stub.ListPages(pb.ListPagesRequest(visit_id=visit, page_size=10, order_by="start_time desc"))
    assert [one.page for one in found.pages] == [*listed.pages]
    assert [one.event.event.event_time_ms for one in found.events] == [one["timestamp"] for one in cart[:4:-1]]


async def test_visits_with_too_many_events_to_be_read_together_show_the_newest_ones(
    stub: Any, attributor: Attributor
) -> None:
    person, at_ms = f"{uuid.uuid4()}@shop.example", now_ms() - 300_000
    for visit, start_ms in ((str(uuid.uuid4()), at_ms), (str(uuid.uuid4()), at_ms + 50_000)):
        pages = [event("PageEntered", visit, start_ms + n * 1_000, pageID=f"{n:032X}") for n in range(1, 60)]
        await attributor.store([entry([event("SignIn", visit, start_ms, person), *pages])])
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id=person))
    listed = await stub.ListPages(pb.ListPagesRequest(identity_id=person, page_size=10, order_by="start_time desc"))
    assert [one.page for one in found.pages] == [*listed.pages]


async def test_nothing_of_another_site_person_or_day_is_shown(stub: Any, attributor: Attributor) -> None:
    person, visit, old = "dana@shop.example", str(uuid.uuid4()), str(uuid.uuid4())
    at_ms = now_ms() - 60_000
    events = [
        event("Before", visit, at_ms),
        event("SignIn", visit, at_ms + 1, "kim@shop.example"),
        event("OfKim", visit, at_ms + 2),
        event("SignIn", visit, at_ms + 3, person),
        event("OfDana", visit, at_ms + 4),
        event("SignIn", old, at_ms - 90_000_000, person),
        event("Yesterday", old, at_ms - 90_000_000 + 1),
    ]
    await attributor.store([entry(events)])
    wanted = pb.GetCustomerContextRequest(identity_id=person, sites=["default"])
    found = await stub.GetCustomerContext(wanted)
    assert [one.event.event.event_name for one in found.events] == ["OfDana"]
    wanted.sites[:] = ["bank"]
    assert not (await stub.GetCustomerContext(wanted)).events


class Callers:
    """Callers of a service whose sites share no visits, while identity is not available."""

    def __init__(self, store: Store) -> None:
        [unused_port] = free_ports(1)
        self.identity = IdentityClient(f"127.0.0.1:{unused_port}", 200)
        groups = SiteGroups({"shop": "shop", "bank": "bank"})
        reader = Reader(store, IDLE_MS)
        interactions = InteractionReader(store, Tombstones(store, ""), self.identity, max_visits=10)
        self.contexts = CustomerContexts(
            store, reader, self.identity, interactions, groups, timeout_ms=200, idle_ms=IDLE_MS
        )

    async def find(self, visit_id: str, *sites: str) -> pb.GetCustomerContextResponse:
        """The context of a visit."""
        call: Any = SimpleNamespace(time_remaining=lambda: None)
        return await self.contexts.find(pb.GetCustomerContextRequest(visit_id=visit_id, sites=sites), call)


@pytest.fixture
async def callers(store: Store) -> AsyncIterator[Callers]:
    callers = Callers(store)
    yield callers
    await callers.identity.close()


async def test_of_visits_with_one_id_that_of_the_site_that_received_it_first_is_shown(
    callers: Callers, attributor: Attributor
) -> None:
    visit, at_ms = str(uuid.uuid4()), now_ms() - 60_000
    # A sender chooses the time of its events, but not when they are received.
    for received_ms, site, event_ms in ((at_ms + 1, "shop", at_ms), (at_ms + 2, "bank", at_ms - 1_000)):
        envelope = event(f"Of{site}", scoped_visit_id(visit, site), event_ms, site=site)
        stored = batch(logged(envelope, browser_visit_id=visit), contexts=[context(received_time_ms=received_ms)])
        await attributor.store([stored])
    for sites, seen in (((), "Ofshop"), (("bank",), "Ofbank")):
        found = await callers.find(visit, *sites)
        assert [one.event.event.event_name for one in found.events] == [seen]


async def test_parts_whose_time_ends_one_after_the_other_are_named(
    callers: Callers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> int:
        time.sleep(0.02)  # between the beginnings of both parts, which wait for the same query
        return now_ms()

    never = asyncio.Event()
    monkeypatch.setattr("footfall_history.queries.customer_context._now_ms", busy)
    monkeypatch.setattr(store, "find_visits", lambda *_, **__: never.wait())
    found = await callers.find(str(uuid.uuid4()))
    assert found.unavailable_parts == [*OF_IDENTITY, *OF_HISTORY]


async def test_the_oldest_items_are_left_out_of_an_answer_over_64_kib(stub: Any, attributor: Attributor) -> None:
    dana = Story("dana@shop.example")
    large = [event(f"E{n}", dana.visit_id, dana.at_ms + 6_000 + n, data={"x": "y" * 10_000}) for n in range(20)]
    await attributor.store([dana.entry(), entry(large)])
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(visit_id=dana.visit_id))
    assert found.truncated
    assert [one.event.event.event_name for one in found.events] == [f"E{n}" for n in range(19, 13, -1)]
    assert found.ByteSize() <= 65_536


@pytest.mark.parametrize(
    ("customer", "field"), [({}, "customer"), ({"phone": ""}, "phone"), ({"contact_id": ""}, "contact_id")]
)
async def test_a_request_names_one_customer(stub: Any, customer: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetCustomerContext(pb.GetCustomerContextRequest(**customer))
    assert [name for name, _ in details_of(raised.value).violations] == [field]
