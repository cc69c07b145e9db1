"""The quality of identification over HTTP: the counts of a day that is over, its shares, filters and pages."""

import uuid
from functools import partial
from typing import Any

import httpx
from footfall_eventlog.settings import DAY_MS

from tests.tools.eventually import eventually
from tests.tools.scorecards import day_of_ms, recount, send_past
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def cards_of(http: httpx.AsyncClient, site: str, **query: Any) -> list[dict[str, Any]]:
    answer = await http.get("/api/v1/quality", params={"site": site, **query})
    assert answer.status_code == 200, answer.text
    return [card for card in answer.json()["scorecards"] if card["visits"]]


async def is_counted(http: httpx.AsyncClient, site: str) -> None:
    assert await cards_of(http, site)


async def is_linked(http: httpx.AsyncClient, person: str) -> None:
    links = (await http.get(f"/api/v1/identities/{person}/links")).json()["links"]
    assert links[0]["contactId"]


async def test_a_day_that_is_over_is_counted_and_shown(suite: Suite) -> None:
    site, device, at_ms = f"shop-{uuid.uuid4().hex[:8]}", str(uuid.uuid4()), now_ms() - 2 * DAY_MS
    person, same = f"dana-{site}@shop.example", {"site": site, "globalVisitID": device}
    signed_in, ignored, recognized, anonymous = (str(uuid.uuid4()) for _ in range(4))
    sent = [
        event("PageEntered", signed_in, at_ms, **same),
        event("SignIn", signed_in, at_ms + 5_000, person, **same),
        event("SignIn", ignored, at_ms, "undefined", **same),
        event("UserInfo", recognized, at_ms, "somebody else", **same),
        event("PageEntered", anonymous, at_ms, **same),
        event("PageEntered", str(uuid.uuid4()), now_ms(), **same),
    ]
    async with suite.http() as http:
        contact = {"emailAddresses": [person]}
        assert (await http.put(f"/api/v1/contacts/{site}", json=contact)).status_code == 200
        await send_past(http, *sent)
        await eventually(partial(is_linked, http, person), timeout=20)
        await recount(suite, day_of_ms(at_ms))
        await eventually(partial(is_counted, http, site), timeout=30)
        [card] = await cards_of(http, site)
        assert (card["day"], card["site"], card["isFinal"]) == (day_of_ms(at_ms), site, False)
        assert (card["visits"], card["anonymous"]["count"]) == (4, 2), "those of today are not counted yet"
        assert card["recognized"] == card["authenticated"] == card["ignored"] == {"count": 1, "share": 0.25}
        assert card["proven"] == {"count": 0, "share": 0.0}
        assert card["recognitionSeconds"]["buckets"][:2] == [{"upTo": 1, "count": 1}, {"upTo": 10, "count": 1}]
        assert card["identitiesPerDevice"]["buckets"][1] == {"upTo": 2, "count": 1}
        assert card["devicesPerIdentity"]["buckets"][0] == {"upTo": 1, "count": 2}
        share = {"linked": 0.5, "ambiguous": 0.0, "generic": 0.0, "shared": 0.0}
        assert {name: card["links"][name]["share"] for name in share} == share
        assert (card["links"]["identities"], card["links"]["sampledOneIn"]) == (2, 1)
        assert card["ignoredUserIds"] == [{"reason": "placeholder", "visits": 1}]
        assert card["ignoredPlaceholders"] == [{"value": "undefined", "visits": 1}]
        assert card["lateSeconds"]["buckets"][-1] == {"upTo": None, "count": 4}
        assert person not in str(card)
        assert device not in str(card)

        assert await cards_of(http, site, **{"from": card["day"], "to": card["day"]}) == [card]
        assert await cards_of(http, site, **{"from": day_of_ms(at_ms + DAY_MS)}) == []
        assert await cards_of(http, site, to=day_of_ms(at_ms - DAY_MS)) == []
        page = (await http.get("/api/v1/quality", params={"page_size": 1})).json()
        assert len(page["scorecards"]) == 1
        for query in ("from=yesterday", "to=2026-02-30", "page_token=x", "page_size=0", "day=2026-11-29"):
            refused = await http.get(f"/api/v1/quality?{query}")
            assert refused.status_code == 400
            assert refused.json()["detail"].startswith(query.partition("=")[0])
