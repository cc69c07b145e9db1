"""The consumers of the log: records equal those of a pure model in any order, repetition and concurrency."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.attention import AttentionRules
from footfall_eventlog.stream import Entry
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.log_consumers import LiveStateConsumer, RecordConsumer
from footfall_identity.visit_record import VisitUpdate
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import RequestError
from footfall_timeline import State, VisitState, merge, order_key

from tests.tools.identity import admitted, entry, new_id, random_visit, resolve
from tests.tools.visits import now_ms, scattered


def model(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """Return the expected knowledge of each identity, from all events together."""
    known: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda e: (order_key(e.event_time_ms, e.event_id), e.visit_id)):
        if not event.identity_id:
            continue
        visit = [t for t in map(transition_of, (e for e in events if e.visit_id == event.visit_id)) if t]
        stamp = VisitState(event.visit_id, merge(visit)).attribution
        person = known.setdefault(event.identity_id, {"first_ms": event.event_time_ms, "profile": {}})
        person["last_visit"] = event.visit_id
        person["is_signed_in"] = (stamp.state, stamp.identity) == (State.AUTHENTICATED, event.identity_id)
        person["profile"] |= {field.split(":")[0]: field.split(":")[1] for field in said(event)}
    return known


def said(event: Event) -> list[str]:
    """Return the data of an event made by these tests, `"key":value` each."""
    return event.data_json.decode().replace('"', "").replace(" ", "").strip("{}").split(",")


def as_modelled(record: IdentityRecord) -> dict[str, Any]:
    assert record.newest is not None
    return {
        "first_ms": record.first_ms,
        "profile": {value.key: value.value.strip('"') for value in record.profile},
        "last_visit": record.newest.visit_id,
        "is_signed_in": record.newest.is_signed_in,
    }


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_repetition_and_concurrency_gives_the_same_records(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    events = [event for _ in range(4) for event in random_visit(chance, ["ann", "bob", "cy"], length=8)]
    batches = scattered(events, chance)

    async def resolve_or_not(batch: list[Event]) -> None:
        if chance.random() < 0.7:
            await resolve(store, *batch)

    async def consume(mine: list[list[Event]]) -> None:
        for batch in mine:
            await consumer.handle(0, [entry(*batch)])

    shares = [batches[number::3] for number in range(3)]
    shares[0] += chance.sample(batches, 2)  # delivered twice
    await asyncio.gather(
        *(resolve_or_not(batch) for batch in batches),
        *(consume(share) for share in shares),
    )
    expected = model(events)
    assert {name: as_modelled(record) for name, record in (await links.get(expected)).items()} == expected


async def test_a_sign_out_in_another_entry_ends_the_authenticated_scope(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    visit_id, at = new_id(), now_ms()
    await consumer.handle(0, [entry(admitted("SignIn", visit_id, at, "ann"))])
    await consumer.handle(0, [entry(admitted("SignOut", visit_id, at + 1))])
    record = (await links.get(["ann"]))["ann"]
    assert record.newest is not None
    assert not record.newest.is_signed_in


async def test_a_timeline_changed_during_the_write_is_read_again(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit_id, at = new_id(), now_ms()
    change = links.change
    others = [entry(admitted("SignOut", visit_id, at + 1))]

    async def change_after_another_consumer(*arguments: Any) -> Any:
        while others:
            await consumer.handle(0, [others.pop()])  # there is no record yet
        return await change(*arguments)

    monkeypatch.setattr(links, "change", change_after_another_consumer)
    await consumer.handle(0, [entry(admitted("SignIn", visit_id, at, "ann"))])
    record = (await links.get(["ann"]))["ann"]
    assert record.newest is not None
    assert not record.newest.is_signed_in


async def test_records_written_before_a_timeout_stay(
    consumer: RecordConsumer, links: LinkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of identities in one command would exceed its time limit again and again."""
    visit_id, at = new_id(), now_ms()
    names = [f"somebody {number}" for number in range(250)]
    sign_ins = entry(*(admitted("SignIn", visit_id, at + each, name) for each, name in enumerate(names)))
    replace, commands = links.replace, 0

    async def replace_until_the_third(pairs: Any) -> bool:
        nonlocal commands
        commands += 1
        if commands == 3:
            raise RequestError.unavailable("MongoDB takes too long", 1_000)
        return await replace(pairs)

    monkeypatch.setattr(links, "replace", replace_until_the_third)
    with pytest.raises(RequestError):
        await consumer.handle(0, [sign_ins])
    assert len(await links.get(names)) == 200
    await consumer.handle(0, [sign_ins])
    assert len(await links.get(names)) == 250


async def test_records_use_identifying_events_and_live_state_all_events(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    visit_id, at = new_id(), now_ms()
    events = entry(admitted("SignIn", visit_id, at, "ann"), admitted("PageEntered", visit_id, at + 5))
    await consumer.handle(0, [events])
    assert (await store.get([visit_id]))[visit_id].last_ms == at
    assert "ann" in await links.get(["ann"])
    await LiveStateConsumer(store, AttentionRules.load(None)).handle(0, [events])
    assert (await store.get([visit_id]))[visit_id].last_ms == at + 5


async def test_live_state_has_robots_and_the_latest_events_that_a_rule_counts(store: VisitorStore) -> None:
    robot, person, at = new_id(), new_id(), now_ms()
    names = ["PaymentFailed", "AddToCart", *["SearchStarted"] * 25]
    events = [admitted(name, person, at + number) for number, name in enumerate(names)]
    seen = admitted("PageEntered", robot, at)
    seen.context_index = 1
    batch = EventBatch(events=[*events, seen], contexts=[EventContext(), EventContext(bot=True)])
    entries = [
        Entry("1-0", batch.SerializeToString()),
        entry(*events[:9]),
        entry(admitted("PageEntered", robot, at + 1)),
    ]
    live = LiveStateConsumer(store, AttentionRules.load(None))
    expected = [(at + number, name) for number, name in enumerate(names) if name != "AddToCart"][-20:]
    for order in (entries, [*reversed(entries), *entries]):
        await live.handle(0, order)
        found = await store.get([robot, person])
        assert (found[robot].is_bot, found[robot].is_staff, found[person].is_bot) == (True, False, False)
        assert [(one.time_ms, one.name) for one in found[person].notable] == expected


async def test_an_erasure_forgets_what_a_rule_counts(store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms()
    live = LiveStateConsumer(store, AttentionRules.load(None))
    await live.handle(0, [entry(admitted("SignIn", visit_id, at, "ann"), admitted("PaymentFailed", visit_id, at + 1))])
    found = (await store.get([visit_id]))[visit_id]
    assert [one.name for one in found.notable] == ["PaymentFailed"]
    erased = [transition._replace(identity="") for transition in found.timeline]
    await store.merge([VisitUpdate.of_transitions(found, erased)])
    assert (await store.get([visit_id]))[visit_id].notable == ()


async def test_interactions_change_nothing(redis: Any, consumer: RecordConsumer, store: VisitorStore) -> None:
    visit_id = new_id()
    await resolve(store, admitted("SignIn", visit_id, now_ms(), "ann"))
    before = {key: await redis.dump(key) for key in await redis.keys()}
    update = InteractionUpdate(interaction_id="call", visit_id=visit_id, note="calls again")
    entries = [Entry("1-0", EventBatch(interaction=update).SerializeToString())]
    await LiveStateConsumer(store, AttentionRules.load(None)).handle(0, entries)
    await consumer.handle(0, entries)
    assert {key: await redis.dump(key) for key in await redis.keys()} == before


async def test_only_invalid_events_are_skipped(consumer: RecordConsumer, store: VisitorStore, links: LinkStore) -> None:
    visit_id, at = new_id(), now_ms()
    bad = [
        admitted("SignIn", "../etc", at, "ann"),
        admitted("SignIn", visit_id, at, "ann", event_id="7"),
        admitted("SignIn", visit_id, at, identity_id=""),
        admitted("SignIn", visit_id, at, "x" * 513),
        admitted("SignIn", visit_id, at, "ann", transition=9),
        admitted("SignIn", visit_id, at, "ann", event_time_ms=10**13),
    ]
    unreadable = admitted("SignIn", visit_id, at + 1, "ann", data_json=b'{"name": oops')
    await consumer.handle(
        0, [entry(*bad), Entry("2-0", b"\xff no batch"), entry(unreadable, admitted("SignOut", visit_id, at + 2))]
    )
    record = (await links.get(["ann"]))["ann"]
    assert (record.first_ms, record.profile) == (at + 1, ())
    assert len((await store.get([visit_id]))[visit_id].timeline) == 2


async def test_a_profile_keeps_types_and_odd_keys_and_is_limited(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    visit_id, at = new_id(), now_ms()
    odd = {"a.b": 1.50, "$set": None, "": "", "n\u0000l": [1, {"x": "é"}], "location": "Köln", "big": "x" * 5_000}
    first = admitted("UserInfo", visit_id, at, "ann", data=odd)
    await consumer.handle(0, [entry(first)])
    record = (await links.get(["ann"]))["ann"]
    assert {v.key for v in record.profile} == {"a.b", "$set", "", "n\u0000l", "location", "userID"}
    assert record.location == "Köln"
    many = [admitted("UserInfo", visit_id, at + n, "ann", data={f"k{n:03d}": n}) for n in range(1, 200)]
    for events in (many[:90], many[150:], many[80:160], [first]):
        await consumer.handle(0, [entry(*events)])
    record = (await links.get(["ann"]))["ann"]
    assert [v.key for v in record.profile] == [*(f"k{n:03d}" for n in range(101, 200)), "userID"]
