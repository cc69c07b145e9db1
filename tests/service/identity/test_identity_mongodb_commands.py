"""Indexes serve identity's commands to collections that grow, also those of the embedded server."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from footfall_identity import link_store
from footfall_identity.contact_record import ContactRecord, with_search_keys
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.matching import Doubt
from footfall_identity.relink_store import Cohort
from pymongo.monitoring import CommandStartedEvent

from tests.service.identity.conftest import TIMEOUT_MS
from tests.tools.mongodb_commands import assert_indexed

Call = Callable[[LinkStore], Awaitable[Any]]

IDENTITIES = [IdentityRecord(identity_id="a", first_ms=1, contact_id="c"), IdentityRecord(identity_id="blank")]
CONTACTS = [with_search_keys(ContactRecord(contact_id=name, keys=("email:a",), first_name="Kim")) for name in "cd"]
READS: dict[str, Call] = {
    "identities": lambda links: links.get(["a", "b"]),
    "identities of sites": lambda links: links.get(["a", "b"], ["shop"]),
    "visible": lambda links: links.visible(["a"], ["shop"]),
    "page": lambda links: links.page("a", 10, "", ["shop"]),
    "page of a location": lambda links: links.page("a", 10, "Berlin"),
    "page of shared ones": lambda links: links.page("a", 10, "", above_devices=3),
    "linked": lambda links: links.linked_to("c", "a", 10),
    "linked, of sites": lambda links: links.linked_to("c", "", 10, ["shop"]),
    "linked ids": lambda links: links.linked_ids("c", ["shop"], 10),
    "doubtful": lambda links: links.doubtful(Doubt.AMBIGUOUS, "a", 10),
    "count of doubtful": lambda links: links.count_doubtful(Doubt.AMBIGUOUS, 10),
    "known contacts": lambda links: links.known_contacts(["a"]),
    "in force": lambda links: links.in_force(["a"]),
    "contact": lambda links: links.contact("c"),
    "contacts": lambda links: links.contacts("cd"),
    "contacts after": lambda links: links.contacts_after("c", 10),
    "contacts found": lambda links: links.contacts_after("", 10, "word:kim"),
    "contacts of sites": lambda links: links.linked_contacts("cd", ["shop"]),
    "without search keys": lambda links: links.contacts_without_search_keys(10),
    "matches": lambda links: links.matches({"email:a": 1, "email:b": 1}),
    "keys": lambda links: links.keys_of_contacts("cd"),
    "merges": lambda links: links.merged_contacts(["c"], ["d"]),
    "members": lambda links: links.members(Cohort("keys", "email:a"), "a", 10),
    "linked by hand": lambda links: links.members(Cohort("by_hand", "c"), "a", 10),
    "members of any": lambda links: links.members_of_any([Cohort("keys", key) for key in "ab"], 10),
    "count of members": lambda links: links.count_members(Cohort("by_hand", "c")),
    "count of shared ones": lambda links: links.count_shared(3, 10),
    "count of givers": lambda links: links.count_givers(["email:a"], 10),
    "due": lambda links: links.due(10),
    "stale": lambda links: links.stale_contacts(10, 1),
    "hash": lambda links: links.find_by_hash("a"),
    "names": lambda links: links.renames.names(["a"]),
    "due renames": lambda links: links.renames.due(10),
    "generic values": lambda links: links.generic_values.get(["email:a"]),
    "stale values": lambda links: links.generic_values.stale(10, 1),
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands of stores that are opened in this test."""
    seen: list[Any] = []

    def started(_: object, event: CommandStartedEvent) -> None:
        seen.append(event.command)

    monkeypatch.setattr(link_store._Stopwatch, "started", started)
    return seen


async def test_indexes_serve_all_commands_to_collections_that_grow(
    commands: list[Any], mongo_url: str, mongo_database: str
) -> None:
    links = LinkStore(mongo_url, mongo_database, timeout_ms=TIMEOUT_MS, erasure_secret="")
    await links.prepare()
    database = links._identities.database
    assert await links.replace([(None, record) for record in IDENTITIES])
    stored = await links.store_contacts([(None, record) for record in CONTACTS])
    for name, read in READS.items():
        commands.clear()
        await read(links)
        assert commands, name
        for command in [*commands]:
            await assert_indexed(database, command)
    known = await links.get(["a", "blank"])
    commands.clear()
    await links.unmark_contacts((record, ["email:b"]) for record in stored)
    assert await links.replace([(record, record) for record in known.values()])
    assert [next(iter(command)) for command in commands] == ["update", "update", "delete"]
    for command in [*commands]:
        await assert_indexed(database, command)
    await links.close()
