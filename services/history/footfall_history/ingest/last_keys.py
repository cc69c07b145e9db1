"""Notes on long visits of how far they have come, so that a query finds their last event quickly.

To note each event would cost as much as the event. So an event is noted with a small probability: every visit is noted
once per EVENTS_PER_NOTE of its events, in any order and by any process, and most visits never are.
"""

import random
from collections.abc import Mapping
from typing import Final

from footfall_history.storage import Arrival

EVENTS_PER_NOTE: Final = 256
"""Average number of events of a visit from one note to the next, and so of those among which its last one is found."""


def sampled_last_keys(arrivals: Mapping[str, Arrival]) -> dict[str, str]:
    """The order key of the last new event, by visit, of the visits to be noted now."""
    return {
        visit_id: max(event["order_key"] for event in arrival.events.values())
        for visit_id, arrival in arrivals.items()
        if random.random() * EVENTS_PER_NOTE < len(arrival.events)  # noqa: S311 - no secret
    }
