"""Turns what arrives into notes on visits of how far they have come, so that their end is not sought among all events.

To write that down with every event would cost as much as the event. So each event does with a small chance: every
visit is noted once in so many of its events, however they come and whoever stores them, and most visits never are.
"""

import random
from collections.abc import Mapping
from typing import Final

from footfall_history.storage import Arrival

NOTED_EVERY: Final = 256
"""Events of a visit from one note to the next, on average. When it ends is sought among about so many."""


def notes(arrivals: Mapping[str, Arrival]) -> dict[str, str]:
    """By visit, of those that are to be noted now, the key of the last event that has arrived."""
    return {
        visit_id: max(event["order_key"] for event in arrival.events.values())
        for visit_id, arrival in arrivals.items()
        if random.random() * NOTED_EVERY < len(arrival.events)  # noqa: S311 - no secret
    }
