"""Validation of entries of the log: what every reader may expect of an admitted event and of an erasure."""

import re
from typing import Final

from footfall.event.v1.event_pb2 import Erasure, Event
from footfall_timeline import Assurance, Kind, Transition

from footfall_eventlog.events import MAX_EVENT_TIME_MS, MAX_IDENTITY_LENGTH

_HASH_BYTES: Final = 32
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_STORED_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KINDS: Final = {kind.value: kind for kind in Kind}
_ASSURANCES: Final = {assurance.value: assurance for assurance in Assurance}


class InvalidEventError(Exception):
    """An event breaks a rule that admission guarantees. The text is `field: rule` and quotes nothing of the event."""


def has_stored_ids(event: Event) -> bool:
    """Whether the ids of an event are written as they are stored: dashed UUIDs in lower case."""
    return bool(_STORED_UUID.fullmatch(event.visit_id) and _STORED_UUID.fullmatch(event.event_id))


def transition_of(event: Event) -> Transition | None:
    """The transition that an admitted event adds to the timeline of its visit, if it changes who the visitor is.

    Raises InvalidEventError.
    """
    for field in ("visit_id", "event_id"):
        if not _STORED_UUID.fullmatch(getattr(event, field)):
            raise InvalidEventError(f"{field}: must be a UUID, dashed and lower case")
    event_time_ms = event.event_time_ms
    if not 0 < event_time_ms <= MAX_EVENT_TIME_MS:
        raise InvalidEventError(f"event_time_ms: must be 1 to {MAX_EVENT_TIME_MS}")
    if not event.transition:
        return None
    kind, assurance = _KINDS.get(event.transition), _ASSURANCES.get(event.assurance)
    if kind is None or assurance is None:
        raise InvalidEventError("transition, assurance: must be known to this version")
    if kind is Kind.SIGN_OUT:
        return Transition(event_time_ms, event.event_id, kind, Assurance.NONE, "")
    identity = event.identity_id
    if not 1 <= len(identity) <= MAX_IDENTITY_LENGTH:
        raise InvalidEventError(f"identity_id: must be 1 to {MAX_IDENTITY_LENGTH} characters")
    token_id = event.token_id if kind is Kind.SIGN_IN and assurance is Assurance.PROVEN else ""
    if token_id and not _TOKEN_ID.fullmatch(token_id):
        raise InvalidEventError("token_id: must be 16 hex digits or empty")
    return Transition(event_time_ms, event.event_id, kind, assurance, identity, token_id)


def is_valid_erasure(erasure: Erasure) -> bool:
    """Whether an erasure has the hash of an identity, and an id."""
    return len(erasure.identity_hash) == _HASH_BYTES and bool(_STORED_UUID.fullmatch(erasure.erasure_id))
