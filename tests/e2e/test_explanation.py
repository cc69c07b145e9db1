"""Explanations, tested by ablation: the named events alone give the same result, and none of them can be left out."""

import uuid
from typing import Any
from urllib.parse import quote

import httpx

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import Event, event, now_ms


def story(mark: str) -> list[Event]:
    """Two visits of one customer; `mark` keeps each telling apart from every other, as an empty system would."""
    laptop, phone = str(uuid.uuid5(uuid.NAMESPACE_URL, mark)), str(uuid.uuid5(uuid.NAMESPACE_DNS, mark))
    user, started = f"dana-{mark}", now_ms() - 600_000
    return [
        event("VisitStarted", laptop, started),
        event("UserInfo", laptop, started + 1_000, user, data={"phone": "+493012345678"}),
        event("PageEntered", laptop, started + 2_000),
        event("SignIn", laptop, started + 3_000, user, data={"email": f"Dana.{mark}@Mail.example"}),
        event("AddToCart", laptop, started + 4_000),
        event("VisitStarted", phone, started + 5_000),
        event("SignIn", phone, started + 6_000, user, data={"language": "de"}),
        event("SignOut", phone, started + 7_000),
    ]


async def tell(http: httpx.AsyncClient, mark: str, keep: set[int]) -> tuple[str | None, dict[str, Any], list[Event]]:
    """Send the events at these places to people who are not known yet; return the contact, the link and the events."""
    events = story(mark)
    contact_id = f"c-{mark}"
    body = {"emailAddresses": [f"dana.{mark}@mail.example"]}
    assert (await http.put(f"/api/v1/contacts/{contact_id}", json=body)).status_code == 200
    sent = [one for place, one in enumerate(events) if place in keep]
    # The last event of all is not about anybody: when it is in history, so is what came before it.
    sent.append(event("PageExited", events[0]["visitID"], now_ms()))
    assert (await http.post("/beacon", json=sent)).status_code == 204
    path = f"/api/v1/identities/{quote(f'dana-{mark}')}/links"

    async def links() -> list[dict[str, Any]]:
        answer = await http.get(path)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["links"])

    async def is_done() -> bool:
        answer = await http.get(f"/server/data/visits/{events[0]['visitID']}/events")
        named = [one for one in sent if one["eventName"] in {"SignIn", "UserInfo"}]
        known = await http.get(f"/server/data/identities/dana-{mark}")
        return answer.status_code == 200 and (not named or known.status_code == 200)

    await eventually(is_done)
    if not any(one["eventName"] in {"SignIn", "UserInfo"} for one in sent):
        return None, {}, events
    if 3 in keep:
        await eventually(lambda: _has(links))
    found = await links()
    return (found[0]["contactId"] or None) if found else None, found[0] if found else {}, events


async def _has(links: Any) -> bool:
    return bool(await links())


async def test_the_evidence_of_a_link_is_enough_and_none_of_it_can_be_left_out(suite: Suite) -> None:
    async with suite.http() as http:
        mark = uuid.uuid4().hex[:8]
        contact_id, link, events = await tell(http, mark, set(range(8)))
        assert contact_id == f"c-{mark}"
        named = {evidence["eventId"] for evidence in link["evidence"]}
        places = {place for place, one in enumerate(events) if str(uuid.UUID(one["eventID"])) in named}
        assert places == {3}
        again = uuid.uuid4().hex[:8]
        assert (await tell(http, again, places))[0] == f"c-{again}"
        for left_out in places:
            less = uuid.uuid4().hex[:8]
            assert (await tell(http, less, set(range(8)) - {left_out}))[0] is None


async def test_the_evidence_of_a_state_is_enough_and_each_effective_event_is_needed(suite: Suite) -> None:
    async with suite.http() as http:
        mark = uuid.uuid4().hex[:8]
        _, _, events = await tell(http, mark, set(range(8)))
        explanation = await explain(http, events[0]["visitID"])
        named = [evidence["eventId"] for step in explanation["transitions"] for evidence in step["evidence"]]
        places = {place for place, one in enumerate(events) if str(uuid.UUID(one["eventID"])) in named}
        assert places == {1, 3}
        assert [step["rule"] for step in explanation["transitions"]] == [
            "user_info.recognizes",
            "sign_in.opens_session",
        ]
        assert all(step["effect"] for step in explanation["transitions"])
        again = uuid.uuid4().hex[:8]
        _, _, alone = await tell(http, again, places)
        assert steps(await explain(http, alone[0]["visitID"]), again) == steps(explanation, mark)
        for left_out in places:
            less = uuid.uuid4().hex[:8]
            _, _, fewer = await tell(http, less, set(range(8)) - {left_out})
            assert steps(await explain(http, fewer[0]["visitID"]), less) != steps(explanation, mark)


async def explain(http: httpx.AsyncClient, visit_id: str) -> dict[str, Any]:
    answer = await http.get(f"/api/v1/visits/{visit_id}/explain")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def steps(explanation: dict[str, Any], mark: str) -> list[tuple[str, str, str]]:
    """What an explanation says, without what differs between tellings."""
    return [
        (step["rule"], step["after"]["state"], (step["after"]["identityId"] or "").replace(mark, ""))
        for step in explanation["transitions"]
    ]
