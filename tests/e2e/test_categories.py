"""Pages say nothing of categories, and history finds events and pages by those of CATEGORIES_FILE."""

import uuid

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, new_id, now_ms


async def test_a_query_for_a_category_or_for_all_finds_what_the_file_names(suite: Suite) -> None:
    visit, started = str(uuid.uuid4()), now_ms() - 5_000
    home = {"pageID": new_id(), "url": "https://bank.example/"}
    loans = {"pageID": new_id(), "url": "https://bank.example/loans"}
    sent = [
        ("VisitStarted", home, {}),
        ("PageEntered", home, {"title": "Welcome"}),
        ("PageEntered", loans, {"title": "Bank loans for cars"}),
        ("Calculated", loans, {}),
        ("AddToCart", home, {"sku": "bank-7-car"}),
    ]
    events = [
        event(name, visit, started + at, category="", data=data, **page) for at, (name, page, data) in enumerate(sent)
    ]
    async with suite.http() as http:
        assert (await http.post("/beacon", json=events)).status_code == 204

        async def found(what: str, **query: str) -> list[str]:
            answer = await http.get(f"/server/data/visits/{visit}/{what}", params=query)
            return [one["category"] for one in answer.json()] if answer.status_code == 200 else []

        async def is_stored() -> bool:
            return len(await found("events")) == len(events)

        await eventually(is_stored)
        assert await found("events") == ["", "", "loans;cars", "loans", "cars"]
        assert await found("events", category="all categories") == ["loans;cars", "loans", "cars"]
        assert await found("events", category="cars") == ["loans;cars", "cars"]
        assert await found("pages", category="all categories") == ["loans;cars"]
        assert await found("pages", category="loans") == ["loans;cars"]
        assert await found("pages", category="loan") == []
