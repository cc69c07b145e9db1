"""Responses that exceed a message are split: a channel accepts 4 MiB by default."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor
from footfall_identity.identity_record import IdentityRecord, ProfileValue
from footfall_identity.link_store import LinkStore
from footfall_servicekit.errors import details_of

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.history import entry
from tests.tools.process import Running, running_service
from tests.tools.visits import event, new_id, now_ms

TIMEOUT_MS = 20_000


async def all_pages(method: Any, request: Any, field: str) -> list[list[Any]]:
    """The pages of a list."""
    pages = []
    while True:
        answer = await method(request)
        pages.append(list(getattr(answer, field)))
        if not answer.next_page_token:
            return pages
        request.page_token = answer.next_page_token


async def sign_ins(attributor: Attributor, people: list[str]) -> str:
    """The id of a stored visit in which these people sign in one after the other."""
    visit_id, at = new_id(), now_ms() - 100_000
    events = [event("SignIn", visit_id, at + number, person) for number, person in enumerate(people)]
    assert (await attributor.store([entry(events)])).unstorable == []
    return visit_id


async def test_identities_with_large_profiles_are_listed_in_several_pages(
    running_history: Running,
    attributor: Attributor,
    redis_database_url: str,
    *,
    mongo_url: str,
    mongo_database: str,
    tmp_path: Path,
) -> None:
    # Of every third nothing is known.
    people = [f"person {number:02}" for number in range(21)]
    profile = tuple(ProfileValue(f"key {number:02}", f'"{"x" * 4_000}"', f"{1:013d}") for number in range(100))
    links = LinkStore(mongo_url, mongo_database, timeout_ms=TIMEOUT_MS, erasure_secret="")
    known = [IdentityRecord(identity_id=p, first_ms=1, profile=profile) for n, p in enumerate(people) if n % 3]
    assert await links.replace([(None, record) for record in known])
    await links.close()
    visit_id = await sign_ins(attributor, people)
    stores = {"REDIS_URL": redis_database_url, "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    stores["ERASURE_KEY"] = ERASURE_KEY
    async with (
        running_service("identity", tmp_path, **stores) as identity,
        running_history(IDENTITY_TARGET=identity.target, HISTORY_IDENTITY_TIMEOUT_MS=TIMEOUT_MS) as history,
        history.stub() as stub,
    ):
        request = pb.ListVisitIdentitiesRequest(visit_id=visit_id, page_size=1_000)
        pages = await all_pages(stub.ListVisitIdentities, request, "associations")
        found = [association.identity for page in pages for association in page]
        assert [one.identity_id for one in found] == people
        assert {one.identity_id for one in found if one.profile_json} == {record.identity_id for record in known}
        assert len(pages) == 3


async def test_a_visit_with_long_names_is_explained_in_several_pages(stub: Any, attributor: Attributor) -> None:
    people = [dead_letter * 512 for dead_letter in "🐈🐕"] * 500
    visit_id = await sign_ins(attributor, people)
    pages = await all_pages(stub.ExplainVisit, pb.ExplainVisitRequest(visit_id=visit_id), "explanations")
    assert [step.after.identity_id for page in pages for step in page] == people
    assert len(pages) == 3
    short = await all_pages(stub.ExplainVisit, pb.ExplainVisitRequest(visit_id=visit_id, page_size=300), "explanations")
    assert [len(page) for page in short] == [300, 300, 300, 100]
    assert [step for page in short for step in page] == [step for page in pages for step in page]
    first = await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=visit_id, page_size=7))
    assert list(first.explanations) == pages[0][:7]
    other = await sign_ins(attributor, ["ann"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=other, page_token=first.next_page_token))
    assert details_of(refused.value).violations[0][0] == "page_token"
