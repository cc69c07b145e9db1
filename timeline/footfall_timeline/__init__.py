"""The rules of a visit, as pure functions: transitions, how they merge, and the state that follows from them."""

from footfall_timeline.ids import (
    identity_hash,
    normalize_uuid,
    order_key,
    page_id,
    partition,
    scoped_visit_id,
    session_id,
    user_agent_id,
)
from footfall_timeline.transitions import (
    Assurance,
    Kind,
    LaterVersionError,
    Timeline,
    Transition,
    by_event,
    decode,
    encode,
    erase,
    from_fields,
    merge,
    to_fields,
)
from footfall_timeline.visit_state import (
    ANONYMOUS,
    EFFECTS,
    Association,
    Attribution,
    AttributionRange,
    Rule,
    RunningVisitState,
    Session,
    State,
    Step,
    VisitState,
)

__all__ = [
    "ANONYMOUS", "EFFECTS", "Association", "Assurance", "Attribution", "AttributionRange", "Kind",
    "LaterVersionError", "Rule", "RunningVisitState", "Session", "State", "Step", "Timeline", "Transition",
    "VisitState", "by_event", "decode", "encode", "erase", "from_fields", "identity_hash", "merge",
    "normalize_uuid", "order_key", "page_id", "partition", "scoped_visit_id", "session_id", "to_fields",
    "user_agent_id",
]  # fmt: skip
