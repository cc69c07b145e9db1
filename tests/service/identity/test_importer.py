"""Import of past events: idempotent, and without effect on live state."""

from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.link_store import LinkStore
from footfall_identity.record_writer import RecordWriter
from footfall_identity.requests import admitted as with_transitions

from tests.tools.contacts import Contacts
from tests.tools.identity import DAY_MS, admitted, new_id
from tests.tools.visits import now_ms

VISIT, PAST_MS = new_id(), now_ms() - 20 * DAY_MS


def visit_now(revision: int, signed_in: str, *identities: str) -> ImportedVisit:
    return ImportedVisit(
        visit_id=VISIT, revision=revision, signed_in_identity_id=signed_in, identity_ids=[signed_in, *identities]
    )


ANN = admitted("SignIn", VISIT, PAST_MS, "ann", data={"email": "ann@shop.example", "location": "Ulm"})
BEN = admitted("SignIn", VISIT, PAST_MS + 1, "ben")
FIRST, BOTH = visit_now(1, "ann"), visit_now(2, "ben", "ann")
Imports = list[tuple[Event, ImportedVisit]]


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param([(ANN, FIRST), (BEN, BOTH)], id="in order"),
        pytest.param([(BEN, visit_now(1, "ben")), (ANN, BOTH)], id="the later event first"),
        pytest.param([(ANN, FIRST), (BEN, BOTH), (ANN, FIRST), (BEN, BOTH)], id="twice"),
    ],
)
async def test_an_import_writes_records_and_no_live_state(
    writer: RecordWriter, links: LinkStore, contacts: Contacts, redis: Any, imports: Imports
) -> None:
    await contacts.upsert(ContactRecord(contact_id="c1", email_addresses=("ann@shop.example",)))
    for event, visit in imports:
        await writer.import_past(with_transitions([event]), [visit])
    records = await links.get(["ann", "ben"])
    assert {name: record.newest and record.newest.is_signed_in for name, record in records.items()} == {
        "ann": False,  # ended by ben's SignIn
        "ben": True,
    }
    ann = records["ann"]
    assert (ann.first_ms, ann.location, ann.contact_id) == (PAST_MS, "Ulm", "c1")
    assert await redis.keys() == []


async def test_an_import_does_not_restore_an_erased_identity(
    writer: RecordWriter, links: LinkStore, eraser: Eraser
) -> None:
    await writer.import_past(with_transitions([ANN]), [visit_now(1, "ann")])
    erased = await eraser.erase("ann", "officer")
    assert erased.identity_erased
    await writer.import_past(with_transitions([ANN]), [visit_now(1, "ann")])
    assert await links.get(["ann"]) == {}
