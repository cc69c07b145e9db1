"""Interactions in history: stored once, found by whom they are about, and erased with the person."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall.event.v1.interaction_pb2 import INTERACTION_CHANNEL_VOICE, InteractionUpdate
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.interactions import subject_hash
from footfall_eventlog.log import stream_key
from footfall_eventlog.settings import DAY_MS
from footfall_eventlog.stream import Entry
from footfall_history.dead_letters import run_dead_letters
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.erasure.eraser import Eraser
from footfall_history.event_log import EventLog
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.retention import sweep
from footfall_history.storage.store import Store
from footfall_servicekit.errors import details_of
from footfall_timeline import identity_hash
from pymongo.errors import ConnectionFailure

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.history import entry
from tests.tools.visits import event, now_ms

Consume = Callable[..., Any]
MINUTE_MS = 60_000


@pytest.fixture
def consume(consumer_with: Callable[..., LogConsumer]) -> Consume:
    """Hands entries to a consumer of the log, all in one batch."""
    consumer, count = consumer_with(), iter(range(1_000))

    async def handle(*batches: EventBatch) -> None:
        entries = [Entry(f"{next(count)}-0", batch.SerializeToString()) for batch in batches]
        await consumer.handle(0, entries)

    return handle


def reported(interaction_id: str, at_ms: int, **fields: Any) -> EventBatch:
    """The entry of an update; without `start_ms` it reports no beginning."""
    start_ms = fields.pop("start_ms", None)
    update = InteractionUpdate(interaction_id=interaction_id, **fields)
    update.update_time.FromMilliseconds(at_ms)
    if start_ms is not None:
        update.start_time.FromMilliseconds(start_ms)
    return EventBatch(interaction=update)


def erasure_of(identity_id: str) -> Erasure:
    """An erasure of an identity, made now."""
    hashed = identity_hash(ERASURE_KEY, identity_id)
    return Erasure(identity_hash=hashed, erase_time_ms=now_ms(), erasure_id=str(uuid.uuid4()))


async def ids(stub: Any, **request: Any) -> list[str]:
    """The ids of all pages of a list."""
    asked, found = pb.ListInteractionsRequest(**request), []
    while True:
        answer = await stub.ListInteractions(asked)
        found += [one.interaction_id for one in answer.interactions]
        asked.page_token = answer.next_page_token
        if not asked.page_token:
            return found


async def test_updates_in_any_order_and_repeated_are_one_interaction(stub: Any, consume: Consume) -> None:
    at_ms, contact, agent = now_ms(), f"contact-{uuid.uuid4()}", f"agent-{uuid.uuid4()}"
    begun = reported("call", at_ms, contact_id=contact, agent=agent, channel=INTERACTION_CHANNEL_VOICE, start_ms=at_ms)
    ended = reported("call", at_ms + 2_000, contact_id=contact, disposition="solved", note="wants a callback")
    noted = reported("call", at_ms + 1_000, contact_id=contact, note="waits", data_json=b'{"mood":3}')
    await consume(ended, begun)
    await consume(noted, begun, ended)
    await consume(begun)
    [found] = (await stub.ListInteractions(pb.ListInteractionsRequest(agent=agent))).interactions
    assert (found.interaction_id, found.contact_id, found.agent, found.disposition) == (
        "call",
        contact,
        agent,
        "solved",
    )
    assert (found.channel, found.note, found.data_json) == (
        INTERACTION_CHANNEL_VOICE,
        "wants a callback",
        b'{"mood":3}',
    )
    assert (found.start_time.ToMilliseconds(), found.update_time.ToMilliseconds()) == (at_ms, at_ms + 2_000)
    assert (await stub.GetInteraction(pb.GetInteractionRequest(interaction_id="call"))).interaction == found
    asked = pb.GetInteractionRequest(interaction_id="call", json_as_text=True)
    found.data_json, found.data_text = b"", '{"mood":3}'
    assert (await stub.GetInteraction(asked)).interaction == found


async def test_interactions_are_listed_by_subject_agent_and_time_in_pages(stub: Any, consume: Consume) -> None:
    at_ms, visit, agent = now_ms() - 10 * MINUTE_MS, str(uuid.uuid4()), f"agent-{uuid.uuid4()}"
    await consume(entry([event("SignIn", visit, at_ms, "dana")]))
    about: list[dict[str, Any]] = [
        {"visit_id": visit},
        {"identity_id": "dana"},
        {"phone": "+4930123456"},
        {"identity_id": "erik"},
        {"visit_id": visit},
    ]
    await consume(
        *(
            reported(
                f"i{number}",
                at_ms + number * MINUTE_MS,
                agent=agent,
                site="default" if "visit_id" in one else "",
                **one,
            )
            for number, one in enumerate(about)
        )
    )
    for size in (1, 2, 50):
        assert await ids(stub, visit_id=visit, page_size=size) == ["i4", "i0"]
        assert await ids(stub, identity_id="dana", page_size=size) == ["i4", "i1", "i0"]
        assert await ids(stub, agent=agent, page_size=size) == ["i4", "i3", "i2", "i1", "i0"]
        assert await ids(stub, agent=agent, order_by="start_time", page_size=size) == ["i0", "i1", "i2", "i3", "i4"]
    assert await ids(stub, phone="030 / 123456") == ["i2"]
    assert await ids(stub, identity_id="dana", agent="nobody") == []
    assert await ids(stub, identity_id="erik", agent="nobody") == []  # only an interaction names erik
    assert await ids(stub, visit_id=visit, agent="nobody") == []
    scope = pb.Scope()
    scope.start_time.FromMilliseconds(at_ms + MINUTE_MS)
    scope.end_time.FromMilliseconds(at_ms + 3 * MINUTE_MS)
    assert await ids(stub, scope=scope) == ["i2", "i1"]
    assert await ids(stub, scope=pb.Scope(site="default")) == ["i4", "i0"]
    assert await ids(stub, sites=["default"]) == ["i4", "i0"]
    assert await ids(stub, sites=["elsewhere"]) == []
    for wrong in ({"order_by": "agent"}, {"phone": "no number"}, {"page_size": -1}):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListInteractions(pb.ListInteractionsRequest(**wrong))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    unknown: list[dict[str, Any]] = [
        {"visit_id": str(uuid.uuid4())},
        {"identity_id": "nobody"},
        {"visit_id": visit, "sites": ["elsewhere"]},
        {"identity_id": "dana", "sites": ["elsewhere"]},
    ]
    for one in unknown:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListInteractions(pb.ListInteractionsRequest(**one))
        # Identity, which is not available here, would know other names of an identity.
        is_certain = "identity_id" not in one
        assert raised.value.code() == (grpc.StatusCode.NOT_FOUND if is_certain else grpc.StatusCode.UNAVAILABLE)


async def test_an_interaction_belongs_to_whom_the_visit_belonged_to_when_it_began(stub: Any, consume: Consume) -> None:
    at_ms, visit = now_ms() - 60 * MINUTE_MS, str(uuid.uuid4())
    await consume(
        entry([event("PageEntered", visit, at_ms)]),
        reported("before", at_ms + 1, visit_id=visit, site="default"),
        reported("during", at_ms + 20 * MINUTE_MS, visit_id=visit, site="default"),
        reported("after", at_ms + 40 * MINUTE_MS, visit_id=visit, site="default"),
    )
    [first, *_] = (await stub.ListInteractions(pb.ListInteractionsRequest(visit_id=visit))).interactions
    assert (first.visit_id, first.visit_identity_id) == (visit, "")
    await consume(
        entry(
            [
                event("SignIn", visit, at_ms + 30 * MINUTE_MS, "erik"),
                event("SignIn", visit, at_ms + 10 * MINUTE_MS, "dana"),
            ]
        )
    )
    assert await ids(stub, identity_id="dana") == ["during", "before"]
    assert await ids(stub, identity_id="erik", page_size=1) == ["after"]
    exported = [
        one.interaction.interaction_id
        async for one in stub.ExportIdentity(pb.ExportIdentityRequest(identity_id="dana"))
        if one.HasField("interaction")
    ]
    assert exported == ["before", "during"]


async def test_an_interaction_does_not_touch_its_visit(stub: Any, consume: Consume, store: Store) -> None:
    at_ms, visit = now_ms() - 90 * MINUTE_MS, str(uuid.uuid4())
    await consume(entry([event("SignIn", visit, at_ms, "dana")]))
    before, stored = (
        await stub.GetVisit(pb.GetVisitRequest(visit_id=visit)),
        await store.visits.find_one({"_id": visit}),
    )
    await consume(reported("note", now_ms(), visit_id=visit, site="default", note="x"))
    assert await stub.GetVisit(pb.GetVisitRequest(visit_id=visit)) == before
    assert await store.visits.find_one({"_id": visit}) == stored
    assert before.visit.ended


async def test_the_context_has_the_newest_interactions_of_the_identity(stub: Any, consume: Consume) -> None:
    at_ms, visit = now_ms() - 5 * MINUTE_MS, str(uuid.uuid4())
    await consume(
        entry([event("SignIn", visit, at_ms, "dana")]),
        *(reported(f"i{n:02}", at_ms + n, visit_id=visit, site="default", data_json=b'{"a":1}') for n in range(12)),
        reported("of-erik", at_ms, identity_id="erik"),
    )
    found = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id="dana"))
    assert [one.interaction_id for one in found.interactions] == [f"i{n:02}" for n in range(11, 1, -1)]
    assert not found.interactions[0].data_json
    unknown = await stub.GetCustomerContext(pb.GetCustomerContextRequest(identity_id="nobody"))
    assert [*unknown.interactions] == []


async def test_an_erasure_removes_the_interactions_of_the_person_and_late_updates_do_not_bring_them_back(
    stub: Any, consume: Consume, store: Store, eraser: Eraser
) -> None:
    at_ms, visit, contact = now_ms() - 30 * MINUTE_MS, str(uuid.uuid4()), f"contact-{uuid.uuid4()}"
    own = [
        reported("visit", at_ms + MINUTE_MS, visit_id=visit, site="default", note="Dana's secret"),
        reported("identity", at_ms, identity_id="dana"),
        reported("contact", at_ms, contact_id=contact),
        reported("phone", at_ms, phone="+4930123456"),
    ]
    others = [
        reported("later", at_ms + 11 * MINUTE_MS, visit_id=visit, site="default"),
        reported("erik", at_ms, identity_id="erik"),
    ]
    signed_in = [event("SignIn", visit, at_ms, "dana"), event("SignIn", visit, at_ms + 10 * MINUTE_MS, "erik")]
    await consume(entry(signed_in), *own, *others)
    related = [("contact_id", contact), ("phone", "+4930123456")]
    erasure = Erasure(
        identity_hash=identity_hash(ERASURE_KEY, "dana"),
        erase_time_ms=now_ms(),
        erasure_id=str(uuid.uuid4()),
        related_hashes=[subject_hash(ERASURE_KEY, kind, value) for kind, value in related],
    )
    request = pb.EraseIdentityRequest(identity_id="dana", erasure=erasure)
    assert (await stub.EraseIdentity(request)).interaction_count == 4
    assert await ids(stub) == ["later", "erik"]
    await consume(*own, *others, EventBatch(erasure=erasure))  # the log is read again
    assert await ids(stub) == ["later", "erik"]
    assert (await stub.EraseIdentity(request)).interaction_count == 4
    stored = [document async for document in store.interactions.find()]
    assert "secret" not in repr(stored)
    # What begins after the erasure is new.
    await consume(reported("new", now_ms() + 1, contact_id=contact, start_ms=now_ms() + 1))
    assert await ids(stub) == ["new", "later", "erik"]


async def test_an_erasure_from_the_log_removes_them_as_well(stub: Any, consume: Consume, eraser: Eraser) -> None:
    await consume(reported("identity", now_ms() - 1_000, identity_id="dana"))
    await eraser.apply(0, erasure_of("dana"))
    assert await ids(stub) == []


async def test_an_event_that_names_an_erased_person_late_takes_the_interactions_of_its_visit_along(
    consume: Consume, consumer_with: Callable[..., LogConsumer], store: Store, eraser: Eraser
) -> None:
    at_ms, visit = now_ms() - 30 * MINUTE_MS, str(uuid.uuid4())
    await consume(
        entry([event("PageEntered", visit, at_ms)]), reported("call", at_ms + MINUTE_MS, visit_id=visit, site="default")
    )
    await eraser.apply(0, erasure_of("dana"))
    assert await store.interactions.count_documents({}) == 1
    late = entry([event("SignIn", visit, at_ms, "dana")])
    await consume(late)
    await consumer_with().handle_slow(0, [late])
    assert await store.interactions.count_documents({}) == 0


async def test_the_interactions_of_a_visit_are_removed_before_the_visit_is_no_longer_found_by_its_identity(
    consume: Consume, store: Store, eraser: Eraser, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_ms, visit = now_ms() - 30 * MINUTE_MS, str(uuid.uuid4())
    await consume(
        entry([event("SignIn", visit, at_ms, "dana")]), reported("call", at_ms + 1, visit_id=visit, site="default")
    )

    async def fail(_where: Any) -> int:
        raise ConnectionFailure

    with monkeypatch.context() as patched:
        patched.setattr(store, "remove_interactions", fail)
        with pytest.raises(ConnectionFailure):
            await eraser.apply(0, erasure_of("dana"))
    await eraser.apply(0, erasure_of("dana"))
    assert await store.interactions.count_documents({}) == 0


async def test_an_update_that_cannot_be_stored_becomes_a_dead_letter(
    stub: Any, consume: Consume, dead_letters: DeadLetterQueue, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    async def refuse(_document: Any) -> bool:
        raise ValueError("too large")

    without_subject = reported("call", now_ms())
    without_calendar = reported("call", 1, contact_id="c")
    without_calendar.interaction.update_time.seconds = 2**60
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_interaction", refuse)
        await consume(without_subject, without_calendar, reported("call", now_ms(), contact_id="c"))
    await consume(reported("next", now_ms(), contact_id="c"))
    assert await ids(stub) == ["next"]
    letters = [letter async for letter in dead_letters.in_partition(0)]
    assert [letter.id.partition("/")[0] for letter in letters] == ["entry", "entry", "entry"]
    assert [letter.interaction.interaction_id for letter in letters if letter.interaction] == ["call"]


async def test_a_dead_letter_with_an_interaction_is_replayed_and_not_repaired(
    consume: Consume,
    dead_letters: DeadLetterQueue,
    monkeypatch: pytest.MonkeyPatch,
    *,
    store: Store,
    redis_database_url: str,
    log: EventLog,
) -> None:
    async def refuse(_document: Any) -> bool:
        raise ValueError("refused")

    batch = reported("call", now_ms(), contact_id="c")
    monkeypatch.setattr(store, "write_interaction", refuse)
    await consume(batch)
    [letter] = [letter async for letter in dead_letters.in_partition(0)]
    for name, value in {"REDIS_URL": redis_database_url, "PARTITIONS": "1", "NEVER_ERASE": "true"}.items():
        monkeypatch.setenv(name, value)
    assert await asyncio.to_thread(run_dead_letters, ["repair", letter.id, "--set", "url=1"]) == 1
    assert await asyncio.to_thread(run_dead_letters, ["replay", "--all"]) == 0
    [(_, fields)] = await log.client(0).xrange(stream_key(0))
    assert EventBatch.FromString(fields[b"b"]) == batch


async def test_an_update_that_mongodb_refuses_is_not_taken_for_stored(
    consume: Consume, dead_letters: DeadLetterQueue, store: Store
) -> None:
    too_large = b'{"a":"%b"}' % (b"x" * 17_000_000)
    await consume(reported("call", now_ms(), contact_id="c", data_json=too_large))
    assert await store.interactions.count_documents({}) == 0
    assert len([letter async for letter in dead_letters.in_partition(0)]) == 1


async def test_dead_letters_with_interactions_of_an_erased_person_are_removed(
    consume: Consume, dead_letters: DeadLetterQueue, monkeypatch: pytest.MonkeyPatch, store: Store, eraser: Eraser
) -> None:
    async def refuse(_document: Any) -> bool:
        raise ValueError("refused")

    begun_ms = now_ms()
    monkeypatch.setattr(store, "write_interaction", refuse)
    await consume(reported("a", begun_ms, identity_id="dana"), reported("b", begun_ms, identity_id="erik"))
    await eraser.apply(0, erasure_of("dana"))
    await consume(reported("c", begun_ms, identity_id="dana"))  # read after the erasure
    letters = [letter async for letter in dead_letters.in_partition(0)]
    assert [letter.interaction.interaction_id for letter in letters if letter.interaction] == ["b"]


async def test_interactions_expire_as_events_do(stub: Any, consume: Consume, store: Store) -> None:
    now = now_ms()
    await consume(
        reported("old", now, contact_id="c", start_ms=now - 32 * DAY_MS), reported("new", now, contact_id="c")
    )
    await sweep(store, 30 * DAY_MS)
    assert await ids(stub) == ["new"]


async def test_the_interactions_of_a_visit_expire_with_it(consume: Consume, store: Store) -> None:
    visit, old = str(uuid.uuid4()), str(uuid.uuid4())
    await consume(*(entry([event("SignIn", one, now_ms() - 32 * DAY_MS, "dana")]) for one in (visit, old)))
    await consume(entry([event("PageEntered", visit, now_ms())]))
    await store.visits.update_one({"_id": old}, {"$set": {"touched_ms": 1}})
    await consume(*(reported(one, now_ms(), visit_id=one, site="default") for one in (visit, old)))
    await sweep(store, 30 * DAY_MS)
    assert [one["_id"] async for one in store.interactions.find()] == [visit]


async def test_an_interaction_of_a_group_of_sites_has_an_id_of_its_own(stub: Any, consume: Consume) -> None:
    visit, at_ms = str(uuid.uuid4()), now_ms()
    await consume(
        entry([event("PageEntered", visit, at_ms)]),
        reported("call", at_ms, phone="+4930123456", note="of nobody"),
        reported("call", at_ms, visit_id=visit, site="default", scope="default", note="of the site"),
        reported("chat", at_ms, visit_id=visit, site="default", scope="default", note="of the site"),
        reported("chat", at_ms, visit_id=visit, site="default", note="of a caller of all sites"),
        reported("mail", at_ms, contact_id="c"),
    )
    assert await ids(stub, agent="") == ["mail", "chat", "chat", "call", "call"]
    request = pb.GetInteractionRequest(interaction_id="call")
    assert (await stub.GetInteraction(request)).interaction.note == "of nobody"
    request.sites[:] = ["default"]
    assert (await stub.GetInteraction(request)).interaction.note == "of the site"
    request.interaction_id = "chat"
    assert (await stub.GetInteraction(request)).interaction.note == "of the site"
    request.sites[:] = []
    assert (await stub.GetInteraction(request)).interaction.note == "of a caller of all sites"
    request.sites[:] = ["elsewhere"]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetInteraction(request)
    assert details_of(raised.value).resource_type == "Interaction"
    request.interaction_id = "mail"
    with pytest.raises(grpc.aio.AioRpcError) as raised:  # only identity, which is not available, knows who has seen it
        await stub.GetInteraction(request)
    assert details_of(raised.value).code is grpc.StatusCode.UNAVAILABLE
