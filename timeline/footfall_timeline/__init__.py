"""The rules of a visit, pure: which transitions there are, how they merge, and what they say of each moment."""

from footfall_timeline.fold import (
    ANONYMOUS,
    EFFECTS,
    Association,
    Fold,
    Rule,
    Session,
    Stamp,
    State,
    Step,
    Stretch,
)
from footfall_timeline.ids import (
    identity_hash,
    normalize_uuid,
    order_key,
    page_id,
    partition,
    session_id,
    user_agent_id,
)
from footfall_timeline.transitions import Assurance, Kind, Timeline, Transition, decode, encode, erase, merge

__all__ = [
    "ANONYMOUS",
    "EFFECTS",
    "Association",
    "Assurance",
    "Fold",
    "Kind",
    "Rule",
    "Session",
    "Stamp",
    "State",
    "Step",
    "Stretch",
    "Timeline",
    "Transition",
    "decode",
    "encode",
    "erase",
    "identity_hash",
    "merge",
    "normalize_uuid",
    "order_key",
    "page_id",
    "partition",
    "session_id",
    "user_agent_id",
]
