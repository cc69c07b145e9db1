"""What every reader of the log may expect of an admitted event, and the transition that follows from it."""

import re
from typing import Final, Protocol

from footfall_timeline import Assurance, Kind, Transition

LATEST_MS: Final = 10**13 - 1
"""The last event time: order keys have 13 digits."""
MAX_IDENTITY_LENGTH: Final = 512
"""Characters."""

_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_STORED_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KINDS: Final = {kind.value: kind for kind in Kind}
_ASSURANCES: Final = {assurance.value: assurance for assurance in Assurance}


class AdmittedEvent(Protocol):
    """What admission decides of an event: fields of footfall.event.v1.Event."""

    @property
    def visit_id(self) -> str:
        """A UUID, dashed and lower case."""

    @property
    def event_id(self) -> str:
        """A UUID, dashed and lower case."""

    @property
    def event_time_ms(self) -> int:
        """1 to 9,999,999,999,999."""

    @property
    def transition(self) -> int:
        """A Kind, or 0 for an event that identifies nobody."""

    @property
    def assurance(self) -> int:
        """An Assurance."""

    @property
    def identity_id(self) -> str:
        """Whom a USER_INFO or SIGN_IN names."""

    @property
    def token_id(self) -> str:
        """What stands for the token that proves a SIGN_IN: 16 hex digits; else empty."""


class InvalidEventError(Exception):
    """An event that is not as admission leaves it. `field: rule`, which quotes nothing of the event."""


def has_stored_ids(event: AdmittedEvent) -> bool:
    """Whether an event's ids are spelled as they are stored."""
    return bool(_STORED_UUID.fullmatch(event.visit_id) and _STORED_UUID.fullmatch(event.event_id))


def transition_of(event: AdmittedEvent) -> Transition | None:
    """What an admitted event does to its visit's timeline; None for an event that is only stamped.

    Raises InvalidEventError.
    """
    for field in ("visit_id", "event_id"):
        if not _STORED_UUID.fullmatch(getattr(event, field)):
            raise InvalidEventError(f"{field}: must be a UUID, dashed and lower case")
    event_time_ms = event.event_time_ms
    if not 0 < event_time_ms <= LATEST_MS:
        raise InvalidEventError(f"event_time_ms: must be 1 to {LATEST_MS}")
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
