"""What answers about a visitor or an identity say of its contact."""

from collections.abc import Container
from enum import IntEnum
from typing import NamedTuple

from footfall_identity.identity_record import Decision, IdentityRecord
from footfall_identity.matching import Status


class ContactStatus(IntEnum):
    """What is known of the contact. The numbers are those of footfall.identity.v1.ContactStatus."""

    NONE = 1
    LINKED = 2
    AMBIGUOUS = 3
    UNKNOWN = 4
    RECOGNIZED_ONLY = 5


class KnownContact(NamedTuple):
    """The status, the contact if it is LINKED, and the number of candidates if there are any."""

    status: ContactStatus
    contact_id: str = ""
    candidate_count: int = 0

    @classmethod
    def of(cls, decision: Decision | None, sites: Container[str] = ()) -> "KnownContact":
        """Return what the decision in force says; with `sites`, without what only events of other sites say."""
        if decision is None:
            return NO_CONTACT
        count = 0 if sites else decision.match_count
        match decision.status:
            case Status.LINKED:
                return cls(ContactStatus.LINKED, decision.contact_id)
            case Status.AMBIGUOUS:
                return cls(ContactStatus.AMBIGUOUS, candidate_count=count)
            case Status.UNLINKED:
                evidence = decision.match_key
                is_recognized = evidence is not None and (not sites or evidence.site in sites)
                return cls(ContactStatus.RECOGNIZED_ONLY, candidate_count=count) if is_recognized else NO_CONTACT

    @classmethod
    def of_record(cls, record: IdentityRecord | None, sites: Container[str] = ()) -> "KnownContact":
        """Return what the record of an identity says; None: the identity is not known."""
        return cls.of(record.decisions[-1] if record and record.decisions else None, sites)


NO_CONTACT = KnownContact(ContactStatus.NONE)
UNKNOWN_CONTACT = KnownContact(ContactStatus.UNKNOWN)
