"""What identity answers about a customer: its limits, and what remains while a store does not answer."""

from collections.abc import Callable
from typing import Any

import pytest
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.site_groups import SiteGroups
from footfall_identity.contact_directory import ContactDirectory
from footfall_identity.contact_record import ContactRecord, with_match_keys, with_search_keys
from footfall_identity.customers import Customers
from footfall_identity.identity_record import Association, IdentityRecord, SiteAssociation
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.partitions import Partitions
from footfall_identity.visit_codes import VisitCodes
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit import metrics
from footfall_timeline import order_key
from msgspec.structs import replace

from tests.tools.identity import admitted, new_id, resolve
from tests.tools.ports import free_ports
from tests.tools.visits import now_ms

Make = Callable[..., Customers]


@pytest.fixture
def make(partitions: Partitions, store: VisitorStore, links: LinkStore, linker: Linker) -> Make:
    """Answers about customers; keywords replace a part."""

    def make(
        visitors: VisitorStore = store, contacts: LinkStore = links, directory: ContactDirectory | None = None
    ) -> Customers:
        codes = VisitCodes(
            partitions, visitors, life_ms=60_000, max_codes=100, max_wrong_per_minute=5, max_wrong_of_all=5
        )
        return Customers(
            visitors,
            contacts,
            directory or ContactDirectory(contacts),
            codes,
            SiteGroups(),
            phone_region=None,
            copy_name=False,
            linker=linker,
        )

    return make


def identity(number: int, contact_id: str = "", **more: Any) -> IdentityRecord:
    """An identity that an event has named, the later the greater its number."""
    newest = Association(order_key(now_ms() + number, ""), new_id())
    by_site = (SiteAssociation("shop", 1, newest),)
    identity_id = f"person-{number:02}"
    return IdentityRecord(
        identity_id=identity_id, first_ms=1, newest=newest, by_site=by_site, contact_id=contact_id, **more
    )


async def test_a_contact_has_its_20_identities_latest_first_for_the_sites_that_know_it(
    make: Make, links: LinkStore
) -> None:
    contact = with_match_keys(ContactRecord(contact_id="c-1", phone_numbers=("+49301234567",)), None)
    await links.replace_contacts([(None, contact)])
    await links.replace([(None, identity(number, "c-1")) for number in range(21)])
    found = await make().find(pb.GetCustomerRequest(contact_id="c-1"))
    assert [one.identity.identity_id for one in found.identities] == [f"person-{n:02}" for n in range(19, -1, -1)]
    assert (found.contact.contact_id, found.has_more_identities) == ("c-1", True)
    # The identity that was asked for comes first, also if the contact has more identities than are shown.
    found = await make().find(pb.GetCustomerRequest(identity_id="person-20"))
    assert (found.identities[0].identity.identity_id, len(found.identities)) == ("person-20", 21)
    assert (await make().find(pb.GetCustomerRequest(contact_id="c-1", sites=["shop"]))).HasField("contact")
    for hidden in ({"contact_id": "c-1", "sites": ["bank"]}, {"contact_id": "c-2"}, {"identity_id": "nobody"}):
        assert await make().find(pb.GetCustomerRequest(**hidden)) == pb.GetCustomerResponse()


@pytest.mark.parametrize("customer", [{"phone": "+49301234567"}, {"contact_id": "c-1"}, {"identity_id": "person-02"}])
async def test_who_it_is_takes_few_commands_where_nothing_was_renamed_or_merged(
    make: Make, links: LinkStore, mongo_url: str, mongo_database: str, customer: dict[str, Any]
) -> None:
    contact = with_search_keys(with_match_keys(ContactRecord(contact_id="c-1", phone_numbers=("+49301234567",)), None))
    await links.replace_contacts([(None, contact)])
    await links.replace([(None, identity(2, "c-1"))])
    remembering = LinkStore(mongo_url, mongo_database, timeout_ms=20_000, erasure_secret="", remember_ms=60_000)
    directory = ContactDirectory(remembering)
    await directory.complete()
    customers, request = make(contacts=remembering, directory=directory), pb.GetCustomerRequest(**customer)
    await customers.find(request)
    before = commands()
    found = await customers.find(request)
    assert (found.contact.contact_id, [one.identity.identity_id for one in found.identities]) == ("c-1", ["person-02"])
    # The contact and its identities; before them the identity that is asked for.
    assert commands() - before == (3 if "identity_id" in customer else 2)
    await remembering.close()


async def test_of_contacts_with_one_number_those_that_remain_are_found_with_their_identities(
    make: Make, links: LinkStore
) -> None:
    directory, wanted = ContactDirectory(links), pb.GetCustomerRequest(phone="+49301234567")
    await directory.complete()
    customers = make(directory=directory)
    assert await customers.find(wanted) == pb.GetCustomerResponse()
    given = [ContactRecord(contact_id=f"c-{n}", phone_numbers=("+49301234567",)) for n in range(3)]
    stored = await links.store_contacts([(None, with_search_keys(with_match_keys(one, None))) for one in given])
    await links.replace([(None, identity(number, f"c-{number % 3}")) for number in range(24)])
    found = await customers.find(wanted)
    assert [one.contact_id for one in found.candidates] == ["c-0", "c-1", "c-2"]
    for going, expected in ((stored[2], ["c-0", "c-1"]), (stored[0], ["c-1"]), (stored[1], [])):
        await links.store_contacts([(going, replace(going, is_deleted=True, is_stale=True))])
        found = await customers.find(wanted)
        shown = [found.contact] if found.HasField("contact") else found.candidates
        assert [one.contact_id for one in shown] == expected
        of_contact = [f"person-{number:02}" for number in range(22, 0, -3)] if expected == ["c-1"] else []
        assert [one.identity.identity_id for one in found.identities] == of_contact


def commands() -> float:
    """How many commands this process has sent to MongoDB."""
    [family] = metrics.STORE_SECONDS.collect()
    return sum(one.value for one in family.samples if one.name.endswith("_count") and one.labels["store"] == "mongodb")


async def test_without_the_store_of_contacts_the_visit_and_its_identity_are_known(
    make: Make, store: VisitorStore
) -> None:
    visit = new_id()
    await resolve(store, admitted("SignIn", visit, now_ms(), "dana"))
    [unused_port] = free_ports(1)
    unavailable = LinkStore(f"mongodb://127.0.0.1:{unused_port}", "none", timeout_ms=100, erasure_secret="")
    found = await make(contacts=unavailable).find(pb.GetCustomerRequest(visit_id=visit))
    assert (found.contact_unavailable, found.visitor.visit_id) == (True, visit)
    assert [one.identity.identity_id for one in found.identities] == ["dana"]
    assert [*found.visitors] == [found.visitor]
    await unavailable.close()


async def test_without_live_state_the_contact_is_known(make: Make, links: LinkStore) -> None:
    await links.replace_contacts([(None, ContactRecord(contact_id="c-3"))])
    await links.replace([(None, identity(3, "c-3"))])
    [unused_port] = free_ports(1)
    nowhere = Partitions(f"redis://127.0.0.1:{unused_port}", 1, timeout_ms=100)
    unavailable = VisitorStore(
        nowhere, retention_ms=1, idle_ms=1, short_retention_ms=1, changelog_max_entries=1, max_transitions=1,
        max_pages=1, leave_ms=0, erasure_secret="",
    )  # fmt: skip
    found = await make(visitors=unavailable).find(pb.GetCustomerRequest(contact_id="c-3"))
    assert (found.contact.contact_id, found.visitors_unavailable, len(found.visitors)) == ("c-3", True, 0)
    await nowhere.redis.aclose()
