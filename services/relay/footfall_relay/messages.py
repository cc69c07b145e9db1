"""What goes out: CloudEvents 1.0 about events, revised attributions and erasures."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from footfall.event.v1.event_pb2 import Assurance, Erasure, Event, StaffReason
from footfall.history.v1.history_service_pb2 import AttributedEvent
from footfall.history.v1.visit_pb2 import Stamp
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.visitor_pb2 import ContactStatus, VisitorState

EVENT: Final = "event"
REVISED: Final = "revised"
ERASURE: Final = "erasure"

CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"

encode = msgspec.json.Encoder().encode


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """What a message is about, without what it says: so a dead letter holds nothing of a person."""

    kind: str
    sequence: str
    visit_id: str = ""
    event_id: str = ""
    identity_hash: str = ""
    erasure_id: str = ""
    erase_time_ms: int = 0


class Message(msgspec.Struct, frozen=True):
    """One message. Messages with the same key go out in order."""

    reference: Reference
    key: str
    site: str
    time_ms: int
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its kind: EVENT, REVISED or ERASURE."""
        return self.reference.kind

    def cloud_event(self) -> dict[str, Any]:
        """The message in the JSON format of CloudEvents."""
        about = self.reference
        own_id = f"{about.visit_id}/{about.event_id}" if about.event_id else about.erasure_id
        return {
            "specversion": "1.0",
            "id": own_id if self.kind == EVENT else f"{own_id}/{about.sequence}",
            "source": f"/footfall/{self.site}" if self.site else "/footfall",
            "type": f"footfall.{ERASURE if self.kind == ERASURE else EVENT}",
            "subject": about.visit_id or about.identity_hash,
            "time": datetime.fromtimestamp(self.time_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "datacontenttype": "application/json",
            "partitionkey": self.key,
            "sequence": about.sequence,
            "revised": self.kind == REVISED,
            "data": self.data,
        }


def body_of(messages: Sequence[Message], *, is_batch: bool) -> bytes:
    """The messages as the body of a request: one of them, or a batch."""
    found = [message.cloud_event() for message in messages]
    return encode(found if is_batch else found[0])


def sequence_of(entry_id: str, number: int) -> str:
    """What the messages of a visit are ordered by: the entry of the log, and a number within what it caused."""
    milliseconds, _, sequence = entry_id.partition("-")
    return f"{int(milliseconds):013d}-{int(sequence):06d}-{number:06d}"


def event_message(
    reference: Reference, found: AttributedEvent, contact: Identity | None, hashes: tuple[str, str]
) -> Message:
    """The message about an event. `contact`: the identity of the visitor; None if identity does not answer or know it.

    `hashes`: of the identity of the visitor and of the one that the event names, by which an erasure names them.
    """
    stored, stamp = found.event, found.event.stamp
    event = stored.event
    data = {
        "visitId": event.visit_id,
        "eventId": event.event_id,
        "eventName": event.event_name or None,
        "site": event.site,
        "eventTime": event.event_time_ms,
        "receivedTime": stored.received_time.ToMilliseconds(),
        "globalVisitId": event.global_visit_id or None,
        "pageId": event.page_id or None,
        "url": event.url or None,
        "category": event.category or None,
        "languageCode": event.language_code or None,
        "data": _raw(event),
        "staff": event.staff_reason != StaffReason.STAFF_REASON_UNSPECIFIED,
        "bot": stored.bot,
        "erased": found.erased,
        "namedIdentityId": event.identity_id or None,
        "namedIdentityHash": hashes[1] or None,
        "assurance": Assurance.Name(event.assurance).removeprefix("ASSURANCE_") if event.assurance else None,
        "visitor": {
            **_stamp(stamp),
            "identityHash": hashes[0] or None,
            "sessionId": stamp.session_id or None,
            **_contact(stamp, contact),
        },
        "previous": _stamp(found.previous) if found.HasField("previous") else None,
    }
    return Message(reference, reference.visit_id, event.site, event.event_time_ms, data)


def erasure_message(reference: Reference) -> Message:
    """The message about an erasure."""
    data = {
        "erasureId": reference.erasure_id,
        "identityHash": reference.identity_hash,
        "eraseTime": reference.erase_time_ms,
    }
    return Message(reference, reference.identity_hash, "", reference.erase_time_ms, data)


def erasure_reference(erasure: Erasure, sequence: str) -> Reference:
    """What an entry of the log that erases is about."""
    return Reference(
        ERASURE,
        sequence,
        identity_hash=erasure.identity_hash.hex(),
        erasure_id=erasure.erasure_id,
        erase_time_ms=erasure.erase_time_ms,
    )


def changed_to(found: AttributedEvent) -> str:
    """The state of the visitor after an event that has changed who that is; empty for other events."""
    before, after = found.previous, found.event.stamp
    if not found.HasField("previous") or (before.state, before.identity_id) == (after.state, after.identity_id):
        return ""
    return _state(after)


def _raw(event: Event) -> msgspec.Raw | None:
    return msgspec.Raw(event.data_json) if event.data_json else None


def _stamp(stamp: Stamp) -> dict[str, Any]:
    return {"state": _state(stamp), "identityId": stamp.identity_id or None}


def _state(stamp: Stamp) -> str:
    return VisitorState.Name(stamp.state).removeprefix("VISITOR_STATE_")


def _contact(stamp: Stamp, identity: Identity | None) -> dict[str, Any]:
    status = "UNKNOWN" if stamp.identity_id else "NONE"
    if identity and identity.contact_status:
        status = ContactStatus.Name(identity.contact_status).removeprefix("CONTACT_STATUS_")
    return {"contactId": identity.contact_id or None if identity else None, "contactStatus": status}
