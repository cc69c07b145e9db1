"""The stored record of a contact, and how it changes."""

from collections.abc import Collection
from enum import IntEnum
from hashlib import blake2b
from typing import Final

import msgspec
from footfall_eventlog.match_keys import contact_keys
from msgspec.structs import replace

from footfall_identity.contact_names import name_beginnings

CONTACT_FIELDS: Final = ("email_addresses", "phone_numbers", "first_name", "last_name", "title")
"""The fields that callers write."""

ANY_ETAG: Final = "*"
"""Required instead of an etag: the contact exists."""

STALE_KEY: Final = "stale"
"""Among the search keys of a stale contact, so that these are found without an index of their own."""

_ETAG_BYTES: Final = 12


class RememberedRequest(msgspec.Struct, frozen=True):
    """The request id of a write, a digest of what was written, and when."""

    request_id: str
    digest: str
    at_ms: int


class ContactRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A contact. Every write sets another `rev`.

    It is matched by `keys` and found by `search_keys`, which a contact of an earlier version does not have yet. While
    `is_stale`, identities that match keys that it got or lost (`stale_keys`) have to be linked again, if a note about
    that is not stored yet. A deleted contact is kept until then. `pending_keys` are those of which there was a note
    last.
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
    search_keys: tuple[str, ...] = ()
    stale_keys: tuple[str, ...] = ()
    pending_keys: tuple[str, ...] = ()
    is_stale: bool = False
    is_deleted: bool = False
    requests: tuple[RememberedRequest, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Whether the record can be removed."""
        return self.is_deleted and not self.is_stale

    @property
    def etag(self) -> str:
        """A digest of all that callers see. Equal etags mean that nothing has changed between."""
        seen = (*(getattr(self, field) for field in CONTACT_FIELDS), self.create_ms, self.update_ms)
        return blake2b(msgspec.msgpack.encode(seen), digest_size=_ETAG_BYTES).hexdigest()


class WrittenBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Contacts that are written together: of each only its id and its `stale_keys`."""

    batch_id: str = msgspec.field(name="_id")
    at_ms: int
    contacts: list[ContactRecord]


class ContactMark(msgspec.Struct, frozen=True):
    """When a contact was changed, and whether it is deleted."""

    contact_id: str = msgspec.field(name="_id")
    update_ms: int = 0
    is_deleted: bool = False


class ContactSync(msgspec.Struct, frozen=True, kw_only=True):
    """A synchronization: its number, and when it began."""

    generation: int
    start_ms: int


class ContactResult(IntEnum):
    """What became of a contact. The numbers are those of footfall.identity.v1.ContactResult."""

    CREATED = 1
    CHANGED = 2
    UNCHANGED = 3
    DELETED = 4
    ETAG_MISMATCH = 6
    NOT_FOUND = 7
    REQUEST_ID_USED = 8
    """The request id is that of another write."""


class ContactChange(msgspec.Struct, frozen=True, kw_only=True):
    """A requested change of one contact.

    `given` has the new values of `fields`, with the match keys of all that it has; None: the contact is deleted. With
    `etag`, the contact must exist and have it; `*`: any. With `creates_only`, the contact must not exist. With
    `before_ms`, it must not have been changed since that time.
    """

    contact_id: str
    given: ContactRecord | None
    fields: Collection[str] = CONTACT_FIELDS
    creates: bool = True
    creates_only: bool = False
    etag: str = ""
    request: RememberedRequest | None = None
    before_ms: int = 0


class RequestMemory(msgspec.Struct, frozen=True):
    """How many request ids a contact remembers, and for how long."""

    count: int
    duration_ms: int

    def find(self, record: ContactRecord, request: RememberedRequest, now_ms: int) -> RememberedRequest | None:
        """Return the remembered request with the id of this one."""
        after_ms = now_ms - self.duration_ms
        known = (one for one in record.requests if one.request_id == request.request_id and one.at_ms > after_ms)
        return next(known, None)

    def with_request(self, record: ContactRecord, request: RememberedRequest, now_ms: int) -> ContactRecord:
        """Return the record with a further remembered request."""
        recent = [one for one in record.requests if one.at_ms > now_ms - self.duration_ms]
        return replace(record, requests=tuple([*recent, request][-self.count :]))


def with_search_keys(record: ContactRecord) -> ContactRecord:
    """Return the record with its `search_keys`: at least one, so that contacts without any can be found."""
    keys = {*record.keys, *name_beginnings(record.first_name, record.last_name)} or {"none"}
    if record.is_stale:
        keys.add(STALE_KEY)
    return replace(record, search_keys=tuple(sorted(keys)))


def with_match_keys(record: ContactRecord, region: str | None) -> ContactRecord:
    """Return the record with the `keys` that its values have; `region` is that of numbers without country code."""
    keys = contact_keys(record.email_addresses, record.phone_numbers, record.first_name, record.last_name, region)
    return replace(record, keys=keys)


def changed(
    before: ContactRecord | None, change: ContactChange, now_ms: int, memory: RequestMemory, region: str | None
) -> tuple[ContactResult, ContactRecord | None]:
    """Return what becomes of a contact, and its record after that: `before` itself if nothing has to be written."""
    known = before if before and not before.is_deleted else None
    if known is None and not change.creates:
        return ContactResult.NOT_FOUND, before
    if known and change.request and (used := memory.find(known, change.request, now_ms)):
        is_same = used.digest == change.request.digest
        return ContactResult.UNCHANGED if is_same else ContactResult.REQUEST_ID_USED, before
    if change.etag and (known is None or change.etag not in {ANY_ETAG, known.etag}):
        return ContactResult.ETAG_MISMATCH, before
    if known and change.creates_only:
        return ContactResult.ETAG_MISMATCH, before
    if known and change.before_ms and known.update_ms >= change.before_ms:
        return ContactResult.UNCHANGED, before
    if change.given is None:
        return ContactResult.DELETED, _marked_stale(before, _deleted(change.contact_id, now_ms))
    after = _merged(known, change, now_ms, region)
    is_changed = known is None or _content(after) != _content(known)
    if known and not is_changed:
        after = known
    if change.request:
        after = memory.with_request(after, change.request, now_ms)
    if not is_changed:
        return ContactResult.UNCHANGED, before if after == before else after
    return ContactResult.CHANGED if known else ContactResult.CREATED, _marked_stale(before, after)


def _merged(known: ContactRecord | None, change: ContactChange, now_ms: int, region: str | None) -> ContactRecord:
    """Return the contact with the given values, without marks."""
    given = change.given or ContactRecord(contact_id=change.contact_id)
    if known and set(change.fields) != {*CONTACT_FIELDS}:
        given = with_match_keys(replace(known, **{field: getattr(given, field) for field in change.fields}), region)
    return ContactRecord(
        contact_id=change.contact_id,
        email_addresses=given.email_addresses,
        phone_numbers=given.phone_numbers,
        first_name=given.first_name,
        last_name=given.last_name,
        title=given.title,
        create_ms=known.create_ms if known else now_ms,
        update_ms=now_ms,
        keys=given.keys,
        requests=known.requests if known else (),
        pending_keys=known.pending_keys if known else (),
    )


def _deleted(contact_id: str, now_ms: int) -> ContactRecord:
    """Return the record of a deleted contact, which is kept until its identities have been linked again."""
    return ContactRecord(contact_id=contact_id, update_ms=now_ms, is_deleted=True)


def _marked_stale(before: ContactRecord | None, after: ContactRecord) -> ContactRecord:
    """Return the record with a mark for what has to be linked again: identities with keys that were added or removed.

    A key that the contact had and still has changes no link.
    """
    exists = before is not None and not before.is_deleted
    former = {*before.keys} if before else set()
    stale = {*before.stale_keys} if before else set()
    stale |= former ^ {*after.keys}
    is_stale = bool(stale) or after.is_deleted or not exists or (before is not None and before.is_stale)
    rev = before.rev if before else ""
    return with_search_keys(replace(after, rev=rev, stale_keys=tuple(sorted(stale)), is_stale=is_stale))


def unmarked(before: ContactRecord | None, after: ContactRecord) -> ContactRecord:
    """Return a changed record with the mark that it had before: a note is stored about what has to be linked again."""
    stale_keys = before.stale_keys if before else ()
    if before and before.is_stale:
        return replace(after, stale_keys=stale_keys)
    search_keys = tuple(key for key in after.search_keys if key != STALE_KEY)
    return replace(after, stale_keys=stale_keys, is_stale=False, search_keys=search_keys)


def _content(record: ContactRecord) -> ContactRecord:
    return replace(
        record,
        rev="",
        create_ms=0,
        update_ms=0,
        search_keys=(),
        stale_keys=(),
        pending_keys=(),
        is_stale=False,
        requests=(),
    )
