"""Lists of contacts by id, e-mail address, telephone number and name.

MongoDB is asked for one search key, in the order of ids; further conditions are checked here. So a page reads a bounded
number of contacts in MongoDB. SecantusDB reads all contacts with the search key.
"""

from typing import Final, NamedTuple

import msgspec
import structlog
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity.contact_names import begin_all, stored_beginning
from footfall_identity.contact_record import ContactRecord, with_search_keys
from footfall_identity.link_store import LinkStore

_MAX_EXAMINED: Final = 5_000
_MIN_READ: Final = 50
_MAX_READ: Final = 1_001  # the largest page, and one contact that says whether more follow
_COMPLETED_PER_WRITE: Final = 100
_INDEX_RETRY_MS: Final = 10_000

_log = structlog.get_logger()


class ContactFilter(msgspec.Struct, frozen=True):
    """The conditions on a contact. All that are not empty have to be met.

    `email` and `phone` are match keys, `words` are folded beginnings of words of the name, `contact_ids` name all
    contacts that are looked at.
    """

    email: str = ""
    phone: str = ""
    words: tuple[str, ...] = ()
    contact_ids: tuple[str, ...] = ()

    @property
    def search_key(self) -> str:
        """The search key to query by: that of the strictest condition; "" without any condition."""
        return self.email or self.phone or (stored_beginning(self.words) if self.words else "")

    def matches(self, record: ContactRecord) -> bool:
        """Return whether a contact exists and meets the conditions, except that on its id."""
        return (
            not record.is_deleted
            and {self.email, self.phone} - {""} <= {*record.keys}
            and begin_all(self.words, record.first_name, record.last_name)
        )


class ContactsPosition(NamedTuple):
    """Where a page begins: after a contact, and `skip` further ones that have the search key."""

    after: str = ""
    skip: int = 0


class ContactsPage(msgspec.Struct, frozen=True):
    """A page of contacts, and where the next one begins; None on the last page."""

    contacts: list[ContactRecord]
    position: ContactsPosition | None


class ContactDirectory:
    """The contacts in MongoDB. All methods raise RequestError (UNAVAILABLE) while it is unavailable.

    Searches are refused until all contacts have search keys: a search that misses contacts would look complete.
    """

    def __init__(self, links: LinkStore) -> None:
        self._links = links
        self._is_complete = False

    async def find(
        self, conditions: ContactFilter, sites: list[str], position: ContactsPosition, size: int
    ) -> ContactsPage:
        """Return the first contacts from a position on, by id; with `sites`, those that these sites know.

        Fewer than `size` although more follow, if many contacts had to be examined. A position never names a contact
        that the sites do not know.
        """
        self._require_search(conditions)
        if conditions.contact_ids:
            return await self._named(conditions, sites, position.after, size)
        found: list[ContactRecord] = []
        after, skip = position
        examined = 0
        while examined < _MAX_EXAMINED:
            limit = min(max(size + 1 - len(found), examined, _MIN_READ), _MAX_READ, _MAX_EXAMINED - examined)
            records = await self._links.contacts_after(after, limit, conditions.search_key, skip)
            examined += len(records)
            found += await self._visible([record for record in records if conditions.matches(record)], sites)
            if len(found) > size:
                return ContactsPage(found[:size], ContactsPosition(found[size - 1].contact_id))
            if len(records) < limit:
                return ContactsPage(found, None)
            if sites:
                skip += len(records)
            else:
                after, skip = records[-1].contact_id, 0
        return ContactsPage(found, ContactsPosition(after, skip))

    async def _named(self, conditions: ContactFilter, sites: list[str], after: str, size: int) -> ContactsPage:
        known = await self._links.contacts(conditions.contact_ids)
        matching = [known[one] for one in sorted(known) if one > after and conditions.matches(known[one])]
        found = await self._visible(matching, sites)
        position = ContactsPosition(found[size - 1].contact_id) if len(found) > size else None
        return ContactsPage(found[:size], position)

    def _require_search(self, conditions: ContactFilter) -> None:
        if conditions.search_key and not self._is_complete:
            message = "contacts are being made ready for searches; try again later"
            raise RequestError.unavailable(message, _INDEX_RETRY_MS, "INDEX_BEING_BUILT")

    async def _visible(self, records: list[ContactRecord], sites: list[str]) -> list[ContactRecord]:
        """Return the contacts that these sites know; all without sites.

        Identities are queried also for no contacts, so that the duration does not reveal whether a contact exists.
        """
        if not sites:
            return records
        known = await self._links.linked_contacts([record.contact_id for record in records] or [""], sites)
        return [record for record in records if record.contact_id in known]

    async def complete(self) -> None:
        """Give search keys to contacts that an earlier version has written. Several processes may do it together.

        Their identities are linked again: without search keys no rule finds a contact. Needs the index that
        `LinkStore.prepare` makes.
        """
        await self._links.leave_former_index()
        count = 0
        while records := await self._links.contacts_without_search_keys(_COMPLETED_PER_WRITE):
            if not count:
                _log.info("contacts of an earlier version get their search keys")
            # A contact that is changed meanwhile is found again if it still has none.
            await self._links.replace_contacts([(record, _completed(record)) for record in records])
            count += len(records)
        self._is_complete = True
        if count:
            _log.info("all contacts have their search keys", contacts=count)


def _completed(record: ContactRecord) -> ContactRecord:
    stale_keys = tuple(sorted({*record.keys, *record.stale_keys}))
    return with_search_keys(replace(record, is_stale=True, stale_keys=stale_keys))
