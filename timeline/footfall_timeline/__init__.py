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
    until,
)
from footfall_timeline.visit_state import (
    ANONYMOUS,
    EFFECTS,
    Association,
    Attribution,
    Rule,
    RunningVisitState,
    Session,
    State,
    Step,
    VisitState,
)
