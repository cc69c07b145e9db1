"""The attribution of one event of a visit, found step by step: what the ranges of a visit must say too."""

from footfall_timeline import ANONYMOUS, Attribution, VisitState, order_key


def attribution_at(visit_state: VisitState, event_time_ms: int, event_id: str) -> Attribution:
    """The attribution of the event with this key: what follows from all transitions up to its own."""
    key = order_key(event_time_ms, event_id)
    attribution = ANONYMOUS
    for step in visit_state.steps:
        if step.transition.order_key > key:
            break
        attribution = step.own if step.transition.order_key == key else step.after
    return attribution
