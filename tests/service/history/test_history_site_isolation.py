"""The stored site of a visit, also of visits stored before sites were isolated."""

import itertools
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_timeline import scoped_visit_id

from tests.tools.batches import batch, context
from tests.tools.eventually import eventually
from tests.tools.history import logged
from tests.tools.process import Running
from tests.tools.visits import event, now_ms

SITES = '[[site]]\nname = "shop"\n\n[[site]]\nname = "bank"\n'


@pytest.mark.parametrize("together", [True, False])
async def test_a_visits_site_is_that_of_the_event_received_first(
    attributor: Attributor, store: Store, together: bool
) -> None:
    at = now_ms()
    events = [(at - 3_600_000, "shop", at + 9), (at, "bank", at), (at + 5, "blog", at + 5)]
    for order in itertools.permutations(events):
        visit_id = str(uuid.uuid4())
        entries = [
            batch(
                logged(event("AddToCart", visit_id, happened, site=site)), contexts=[context(received_time_ms=received)]
            )
            for happened, site, received in order
        ]
        for part in [entries] if together else [[one] for one in entries]:
            await attributor.store(part)
        [visit] = await store.find_visits({"_id": visit_id}, 1)
        assert (visit["site"], visit["start_key"][:13]) == ("bank", str(at - 3_600_000))


async def test_a_visit_without_a_site_key_is_found_by_its_site(
    running_history: Running, attributor: Attributor, store: Store, tmp_path: Path
) -> None:
    sites, before, after = tmp_path / "sites.toml", str(uuid.uuid4()), str(uuid.uuid4())
    sites.write_text(SITES)
    stored = scoped_visit_id(after, "bank")
    events = [
        logged(event("SignIn", before, now_ms(), "ann", site="bank")),
        logged(event("SignIn", after, now_ms(), "bob", site="bank"), visit_id=stored, browser_visit_id=after),
    ]
    await attributor.store([batch(*events)])
    await store.visits.update_one({"_id": before}, {"$unset": {"site_key": ""}})
    await attributor.store(
        [batch(logged(event("AddToCart", before, 1, site="shop")), contexts=[context(received_time_ms=1)])]
    )
    async with running_history(SITES_FILE=sites) as history, history.stub() as stub:
        await eventually(partial(is_answered, stub, pb.GetVisitRequest(visit_id=before)))
        for visit_id, who in ((before, "ann"), (after, "bob"), (stored, "bob")):
            for asked in ([], ["bank"], ["shop", "bank"]):
                visit = (await stub.GetVisit(pb.GetVisitRequest(visit_id=visit_id, sites=asked), timeout=5)).visit
                assert (visit.identity_id, visit.visit_id) == (who, before if who == "ann" else after)
            assert not await is_answered(stub, pb.GetVisitRequest(visit_id=visit_id, sites=["shop"]))


async def is_answered(stub: Any, request: pb.GetVisitRequest) -> bool:
    try:
        await stub.GetVisit(request, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.NOT_FOUND
    return True
