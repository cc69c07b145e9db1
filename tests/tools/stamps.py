"""Turns a fold and the key of an event into its stamp, step by step: what stretches must say too."""

from footfall_timeline import ANONYMOUS, Fold, Stamp, order_key


def stamp_at(folded: Fold, event_time_ms: int, event_id: str) -> Stamp:
    """The stamp of the event with this key: the fold of all transitions with a key up to its own."""
    key = order_key(event_time_ms, event_id)
    stamp = ANONYMOUS
    for step in folded.steps:
        if step.transition.order_key > key:
            break
        stamp = step.own if step.transition.order_key == key else step.after
    return stamp
