"""The stored record of a contact, and how it changes."""

import msgspec
from msgspec.structs import replace

from footfall_identity.matching import contact_keys


class ContactRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A contact. Every write sets another `rev`.

    It is matched by `keys`. While `is_stale`, identities that match current or former keys (`stale_keys`) have to be
    linked again. A deleted contact is kept until then.
    """

    contact_id: str = msgspec.field(name="_id")
    rev: str = ""
    email_addresses: tuple[str, ...] = ()
    phone_numbers: tuple[str, ...] = ()
    first_name: str = ""
    last_name: str = ""
    title: str = ""
    create_ms: int = 0
    update_ms: int = 0
    keys: tuple[str, ...] = ()
    stale_keys: tuple[str, ...] = ()
    is_stale: bool = False
    is_deleted: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether the record can be removed."""
        return self.is_deleted and not self.is_stale


def replaced(before: ContactRecord | None, given: ContactRecord, now_ms: int, region: str | None) -> ContactRecord:
    """Return the record that replaces `before` by `given`; `before` itself when nothing differs."""
    keys = contact_keys(given.email_addresses, given.phone_numbers, given.first_name, given.last_name, region)
    known = before if before and not before.is_deleted else None
    after = replace(given, keys=keys, create_ms=known.create_ms if known else now_ms, update_ms=now_ms)
    if known and _content(known) == _content(after):
        return known
    return _marked_stale(before, after)


def deleted(before: ContactRecord, now_ms: int) -> ContactRecord:
    """Return the record of a deleted contact, which is kept until its identities have been linked again."""
    return _marked_stale(before, ContactRecord(contact_id=before.contact_id, update_ms=now_ms, is_deleted=True))


def _marked_stale(before: ContactRecord | None, after: ContactRecord) -> ContactRecord:
    former = {*before.keys, *before.stale_keys} if before else set()
    rev = before.rev if before else ""
    return replace(after, rev=rev, stale_keys=tuple(sorted(former | {*after.keys})), is_stale=True)


def _content(record: ContactRecord) -> ContactRecord:
    return replace(record, rev="", create_ms=0, update_ms=0, stale_keys=(), is_stale=False)
