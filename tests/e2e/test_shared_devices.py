"""Several people, one device: who owns every event. No peer gets all of these right."""

import uuid
from typing import Any

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

Step = tuple[float, str, str | None, str]

# Each step: (seconds after the start, event, who it names, who it must belong to). `-` belongs to no person.
CASES: dict[str, list[Step]] = {
    "kiosk: one customer after the other, each signs out": [
        (0, "VisitStarted", None, "-"), (1, "SignIn", "ann", "ann"), (2, "AddToCart", None, "ann"),
        (3, "SignOut", None, "ann"), (4, "SignIn", "bob", "bob"), (5, "AddToCart", None, "bob"),
        (6, "SignOut", None, "bob"), (7, "PageEntered", None, "bob"),
    ],
    "kiosk: the next customer does not sign in": [
        (0, "VisitStarted", None, "-"), (1, "SignIn", "ann", "ann"), (2, "SignOut", None, "ann"),
        # Recognized, as the original has it; certainty is what `state` says, not ownership.
        (3, "PageEntered", None, "ann"),
    ],
    "family tablet: the site remembers the mother, the son signs in": [
        (0, "VisitStarted", None, "-"), (1, "UserInfo", "ann", "ann"), (2, "PageEntered", None, "ann"),
        (3, "SignIn", "bob", "bob"), (4, "PageEntered", None, "bob"),
    ],
    "agent-assisted browsing: the site names the agent while the customer is signed in": [
        (0, "SignIn", "ann", "ann"), (1, "PageEntered", None, "ann"), (2, "UserInfo", "agent", "agent"),
        (3, "PageEntered", None, "ann"), (4, "SignOut", None, "ann"),
    ],
    "sign-in of B while A is signed in": [
        (0, "SignIn", "ann", "ann"), (1, "PageEntered", None, "ann"), (2, "SignIn", "bob", "bob"),
        (3, "PageEntered", None, "bob"), (4, "SignOut", None, "bob"),
    ],
    "forgotten sign-out, then A comes back": [
        (0, "SignIn", "ann", "ann"), (1, "SignIn", "bob", "bob"), (2, "SignIn", "ann", "ann"),
        (3, "PageEntered", None, "ann"),
    ],
    "sign-out and sign-in in the same second": [
        (0, "SignIn", "ann", "ann"), (1.000, "SignOut", None, "ann"), (1.001, "SignIn", "bob", "bob"),
        (1.002, "PageEntered", None, "bob"),
    ],
    "browsing before the sign-in is not back-filled": [
        (0, "VisitStarted", None, "-"), (1, "PageEntered", None, "-"), (2, "SignIn", "ann", "ann"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("arrival", ["in order", "backwards"])
@pytest.mark.parametrize("case", CASES)
async def test_every_event_has_the_right_owner(suite: Suite, case: str, arrival: str) -> None:
    async with suite.http() as http:
        await expect_owners(http, CASES[case], is_backwards=arrival == "backwards")


async def test_two_people_behind_one_nat_with_the_same_browser_stay_two(suite: Suite) -> None:
    """Same address, same user agent, at the same time: only the ids tell them apart, and only the ids count."""
    async with suite.http() as http:
        await expect_owners(http, [(0, "SignIn", "ann", "ann"), (2, "PageEntered", None, "ann")])
        await expect_owners(http, [(0, "VisitStarted", None, "-"), (2, "PageEntered", None, "-")])
        await expect_owners(http, [(1, "SignIn", "bob", "bob"), (3, "PageEntered", None, "bob")])


async def expect_owners(http: httpx.AsyncClient, steps: list[Step], *, is_backwards: bool = False) -> None:
    visit_id, mark, started = str(uuid.uuid4()), uuid.uuid4().hex[:8], now_ms() - 60_000
    sent = [
        event(name, visit_id, started + round(after * 1000), user and f"{user}.{mark}")
        for after, name, user, _ in steps
    ]
    for one in reversed(sent) if is_backwards else sent:
        assert (await http.post("/beacon", json=one)).status_code == 204
    owners = {str(uuid.UUID(one["eventID"])): step[3] for one, step in zip(sent, steps, strict=True)}

    async def are_right() -> None:
        everybody = await event_ids(http, f"/server/data/visits/{visit_id}/events")
        assert everybody == set(owners)
        for person in ("ann", "bob", "agent"):
            theirs = await event_ids(http, f"/server/data/identities/{person}.{mark}/events")
            assert theirs == {event_id for event_id, owner in owners.items() if owner == person}

    await eventually(are_right)


async def event_ids(http: httpx.AsyncClient, path: str) -> set[str]:
    """The ids of a collection of events; none when it is empty, or its owner has never been heard of."""
    answer = await http.get(path)
    assert answer.status_code in {200, 204, 404}, answer.text
    events: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
    return {str(one["eventID"]) for one in events}
