"""The site of a visit, and identities as their sites see them, in any order of arrival."""

import itertools
import uuid
from functools import partial
from pathlib import Path

import grpc
import pytest
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.match_keys import MatchKey, Rule
from footfall_identity.identity_record import Decision, IdentityRecord, erased, restricted_to_sites
from footfall_identity.link_store import LinkStore
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.matching import Status
from footfall_identity.visitor_store import VisitorStore
from footfall_timeline import scoped_visit_id
from msgspec.structs import replace

from tests.tools.identity import admitted, entry, new_id, resolve
from tests.tools.process import Running
from tests.tools.visits import now_ms

SITES = '[[site]]\nname = "shop"\n\n[[site]]\nname = "bank"\n'


async def test_the_site_of_a_visit_is_that_of_the_event_received_first(store: VisitorStore) -> None:
    at = now_ms()
    events = [(at - 3_600_000, "shop", at + 9), (at, "bank", at), (at + 5, "blog", at + 5)]
    for order in itertools.permutations(events):
        visit_id = new_id()
        for happened, site, received in order:
            await resolve(store, admitted("AddToCart", visit_id, happened, site=site, received_time_ms=received))
        record = (await store.get([visit_id]))[visit_id]
        assert (record.site, record.first_ms, record.received_ms) == ("bank", at - 3_600_000, at)


def sign_in(site: str, at: int, person: str, **data: str) -> Event:
    return admitted("SignIn", new_id(), at, person, site=site, data=data)


async def test_a_site_sees_only_what_its_own_events_say(consumer: RecordConsumer, links: LinkStore) -> None:
    at, seen = now_ms(), []
    for mine in (True, False):
        for order in (1, -1):
            person = f"dana-{uuid.uuid4()}"
            shop = [sign_in("shop", at, person, location="Rome", a="1"), sign_in("shop", at + 9, person, a="2")]
            bank = [sign_in("bank", at - 9, person, location="Oslo", b="3"), sign_in("bank", at + 20, person, a="4")]
            visits = {one.visit_id: name for one, name in zip([*shop, *bank], "1234", strict=True)}
            for one in ([*shop, *bank] if mine else shop)[::order]:
                await consumer.handle(0, [entry(one)])
            record = (await links.get([person], ["shop"]))[person]
            assert record.newest
            values = {(value.key, value.value) for value in record.profile if value.key != "userID"}
            seen.append((record.first_ms, visits[record.newest.visit_id], record.location, values))
            assert (await links.get([person], ["blog"])) == {}
    assert seen == [(at, "2", "Rome", {("location", '"Rome"'), ("a", '"2"')})] * 4


async def test_a_site_with_only_erased_events_sees_no_identity(consumer: RecordConsumer, links: LinkStore) -> None:
    at, person = now_ms(), f"dana-{uuid.uuid4()}"
    for one in (sign_in("shop", at, person), sign_in("bank", at, person), sign_in("bank", at + 50, person)):
        await consumer.handle(0, [entry(one)])
    record: IdentityRecord = erased((await links.get([person]))[person], at + 10)
    assert restricted_to_sites(record, ["shop"]) is None
    known = restricted_to_sites(record, ["bank"])
    assert known
    assert known.first_ms == at + 50


async def test_a_site_sees_nothing_of_the_contacts_that_are_candidates(
    consumer: RecordConsumer, links: LinkStore
) -> None:
    person = f"dana-{uuid.uuid4()}"
    await consumer.handle(0, [entry(sign_in("shop", now_ms(), person))])
    match_key = MatchKey(1, "1", new_id(), "email:a@b.de", "shop")
    decision = Decision(at_ms=1, status=Status.AMBIGUOUS, rule=Rule.EMAIL_ADDRESS, actor="rule", match_key=match_key)
    changed = replace(decision, candidates=("c1", "c2"), candidate_count=2, count=7, last_ms=9)
    await links.change({person: partial(replace, decisions=(changed,))})
    assert (await links.get([person], ["shop"]))[person].decisions == (decision,)


async def test_a_visit_is_found_only_with_its_site(running_identity: Running, tmp_path: Path) -> None:
    sites, before, after = tmp_path / "sites.toml", new_id(), new_id()
    sites.write_text(SITES)
    stored = scoped_visit_id(after, "bank")
    events = [
        admitted("SignIn", before, now_ms(), "ann", site="bank"),
        admitted("SignIn", stored, now_ms(), "bob", site="bank", browser_visit_id=after),
    ]
    async with running_identity(SITES_FILE=sites) as identity, identity.stub() as stub:
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))
        ask = partial(stub.GetVisitor, timeout=5)
        for visit_id, who in ((before, "ann"), (after, "bob"), (stored, "bob")):
            for asked in ([], ["bank"], ["shop", "bank"]):
                visitor = (await ask(pb.GetVisitorRequest(visit_id=visit_id, sites=asked))).visitor
                assert (visitor.identity_id, visitor.visit_id) == (who, before if who == "ann" else after)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(pb.GetVisitorRequest(visit_id=visit_id, sites=["shop"]))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
