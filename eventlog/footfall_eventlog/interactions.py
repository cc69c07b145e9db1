"""What all services know of interactions: limits, their keys, validation in the log, and hashes of whom they name."""

import re
from typing import Final

from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_timeline import identity_hash
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_eventlog.events import MAX_EVENT_TIME_MS

MAX_INTERACTION_ID_LENGTH: Final = 128
MAX_INTERACTION_TEXT_LENGTH: Final = 256
"""Agent, queue and disposition."""
MAX_CONTACT_ID_LENGTH: Final = 256
INTERACTION_TIMES: Final = ("start_time", "end_time", "update_time")
SCOPE_SEPARATOR: Final = "\x1f"
"""Separates id and scope in a key. An id has no control characters."""
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")


def interaction_key(update: InteractionUpdate) -> str:
    """The key under which an interaction is stored: its id, with the scope if it has one."""
    return update.interaction_id + (SCOPE_SEPARATOR + update.scope if update.scope else "")


def is_interaction_id(text: str) -> bool:
    """Whether a text can be the id of an interaction."""
    return 1 <= len(text) <= MAX_INTERACTION_ID_LENGTH and not _CONTROL_CHARACTER.search(text)


def is_valid_interaction(update: InteractionUpdate) -> bool:
    """Whether an update has what history needs: an id, whom it is about, and times that can be stored."""
    return (
        is_interaction_id(update.interaction_id)
        and update.WhichOneof("about") is not None
        and update.HasField("update_time")
        and all(is_interaction_time(getattr(update, name)) for name in INTERACTION_TIMES if update.HasField(name))
    )


def is_interaction_time(moment: Timestamp) -> bool:
    """Whether a time can be stored: from 1970 to 2286."""
    try:
        moment.ToNanoseconds()  # checks the range, also in versions in which ToMilliseconds does not
        return 0 < moment.ToMilliseconds() <= MAX_EVENT_TIME_MS
    except ValueError:
        return False


def subject_hash(erasure_key: str, kind: str, value: str) -> bytes:
    """The keyed hash by which an erasure finds what names a subject.

    `kind`: `identity_id` (the hash is that of the identity), `contact_id` or `phone` (in E.164 form).
    """
    return identity_hash(erasure_key, value if kind == "identity_id" else f"\0{kind}\0{value}")
