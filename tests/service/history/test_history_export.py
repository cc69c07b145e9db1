"""An export contains everything about an identity, also dead letters, and nothing about others."""

from typing import Any

from footfall.event.v1.event_pb2 import ASSURANCE_CLAIMED
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.arrivals import Unstorable
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.batches import CHROME, context
from tests.tools.history import entry, logged
from tests.tools.stories import Story
from tests.tools.visits import event


async def exported(stub: Any, person: str) -> dict[str, list[Any]]:
    """The items of an export, by kind."""
    pieces: dict[str, list[Any]] = {}
    async for answer in stub.ExportIdentity(pb.ExportIdentityRequest(identity_id=person)):
        kind = answer.WhichOneof("item")
        pieces.setdefault(kind, []).append(getattr(answer, kind))
    return pieces


async def test_an_export_contains_a_whole_visit_of_the_identity(stub: Any, attributor: Attributor) -> None:
    story = Story("dana", address="203.0.113.0")
    await attributor.store([story.entry(), Story("ann").entry()])
    found = await exported(stub, "dana")
    assert found.keys() == {"visit", "session", "page", "event"}
    [visit], [session] = found["visit"], found["session"]
    assert (visit.visit_id, visit.site, visit.user_agent) == (story.visit_id, "default", CHROME)
    assert (visit.user_agent_details.family, session.assurance) == ("Chrome", ASSURANCE_CLAIMED)
    assert sorted(page.page_id for page in found["page"]) == sorted([story.loans, story.cart])
    assert sorted(one.event.event_id for one in found["event"]) == sorted(map(story.event_id, range(7)))
    assert {one.address for one in found["event"]} == {"203.0.113.0"}
    assert {one.stamp.identity_id for one in found["event"]} == {"dana", ""}, "also what came before the sign-in"


async def test_anonymous_events_before_another_identity_are_not_exported(stub: Any, attributor: Attributor) -> None:
    story = Story("ann")
    later = event("SignIn", story.visit_id, story.at_ms + 9_000, "dana")
    await attributor.store([story.entry(), entry([later])])
    found = await exported(stub, "dana")
    assert [one.event.event_time_ms - story.at_ms for one in found["event"]] == [9_000]
    assert "page" not in found


async def test_dead_letters_of_the_identity_are_exported(
    stub: Any, attributor: Attributor, dead_letters: DeadLetterQueue
) -> None:
    story, other = Story("dana"), Story("ann")
    await attributor.store([story.entry(), other.entry()])
    theirs = [
        logged(event("Before", story.visit_id, story.at_ms + 10)),
        logged(event("After", story.visit_id, story.at_ms + 3_000)),
        logged(event("SignIn", Story("new person").visit_id, story.at_ms, "dana"), event_time_ms=0),
    ]
    others = [logged(event("After", other.visit_id, other.at_ms + 3_000))]
    await dead_letters.put(
        0, [Unstorable(one, context(address="203.0.113.0"), "for a test") for one in theirs + others]
    )
    found = (await exported(stub, "dana"))["unstored_event"]
    assert sorted(one.event.event.event_name for one in found) == ["After", "Before", "SignIn"]
    assert {(one.event.address, one.dead_letter.reason) for one in found} == {("203.0.113.0", "for a test")}


async def test_events_naming_the_identity_beyond_the_kept_timeline_are_exported(stub: Any, store: Store) -> None:
    story = Story("ann")
    beyond = event("SignIn", story.visit_id, story.at_ms + 9_000, "dana")
    await Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=1).store([story.entry(), entry([beyond])])
    [found] = (await exported(stub, "dana"))["event"]
    assert (found.event.identity_id, found.stamp.identity_id) == ("dana", "ann")


async def test_exported_dead_letters_have_the_browsers_visit_id(stub: Any, dead_letters: DeadLetterQueue) -> None:
    story = Story("dana")
    browser_visit_id = Story("as sent").visit_id
    one = logged(event("SignIn", story.visit_id, story.at_ms, "dana"), browser_visit_id=browser_visit_id)
    await dead_letters.put(0, [Unstorable(one, context(), "for a test")])
    [found] = (await exported(stub, "dana"))["unstored_event"]
    assert (found.event.event.visit_id, found.event.event.browser_visit_id) == (browser_visit_id, "")


async def test_an_export_for_a_site_contains_that_site_only(stub: Any, attributor: Attributor) -> None:
    story = Story("dana")
    others = [event("Looked", story.visit_id, story.at_ms - n, site=site) for n, site in ((1, "bank"), (2, "shop"))]
    sign_in = event("SignIn", story.visit_id, story.at_ms, "dana", site="bank")
    await attributor.store([entry([*others, sign_in])])
    pieces = [
        getattr(answer, kind)
        async for answer in stub.ExportIdentity(pb.ExportIdentityRequest(identity_id="dana", sites=["bank"]))
        if (kind := answer.WhichOneof("item")) == "event"
    ]
    assert sorted((one.event.event_name, one.event.site) for one in pieces) == [("Looked", "bank"), ("SignIn", "bank")]
