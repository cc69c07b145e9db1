"""Interactions over HTTP: what of a request reaches the collector, and what is refused before."""

from typing import Any

import httpx
import pytest
from footfall.event.v1 import interaction_pb2

from tests.service.gateway.conftest import ScriptedCollector

PATH = "/api/v1/interactions"


async def test_a_report_reaches_the_collector_with_what_it_gives(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    given = {
        "interactionId": "call-1",
        "contactId": "c-1",
        "channel": "CALLBACK",
        "agent": "",
        "note": "ünïcode",
        "startTime": 1_700_000_000_001,
        "updateTime": 1_700_000_000_002,
        "data": {"mood": 3},
        "endTime": None,
    }
    answer = await http.post(PATH, json=given)
    assert (answer.status_code, answer.json()) == (
        200,
        {"interactionId": "call-1", "updateTime": 1_700_000_000_002, "site": None},
    )
    [request] = scripted_collector.recorded
    update = request.interaction
    assert (update.contact_id, update.channel) == ("c-1", interaction_pb2.INTERACTION_CHANNEL_CALLBACK)
    assert (update.note, update.data_json) == ("ünïcode", b'{"mood":3}')
    assert update.start_time.ToMilliseconds() == 1_700_000_000_001
    given_fields = [name for name in ("agent", "queue", "disposition", "end_time") if update.HasField(name)]
    assert given_fields == ["agent"]
    assert [*request.sites] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"contactId": None}, "exactly one of visitId"),
        ({"phone": "+4930901820"}, "exactly one of visitId"),
        ({"interactionId": None}, "interactionId"),
        ({"channel": "FAX"}, "channel"),
        ({"startTime": "yesterday"}, "startTime"),
        ({"updateTime": 0}, "updateTime"),
    ],
)
async def test_a_wrong_report_is_refused(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector, change: dict[str, Any], field: str
) -> None:
    answer = await http.post(PATH, json={"interactionId": "call-1", "contactId": "c-1"} | change)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(field)
    assert scripted_collector.recorded == []


async def test_a_list_is_about_one_subject(http: httpx.AsyncClient) -> None:
    answer = await http.get(PATH, params={"identityId": "dana", "contactId": "c-1"})
    assert (answer.status_code, answer.json()["detail"][:11]) == (400, "at most one")
