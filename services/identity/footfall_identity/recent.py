"""Turns events that ResolveEvents has merged here into those the log's consumer need not merge again."""

from collections.abc import Iterable

from footfall.event.v1.event_pb2 import Event

_MOST = 100_000
"""Several seconds' worth at the rate one process can take; about 15 MB."""


class RecentEvents:
    """The latest events without a transition that Redis has confirmed to have merged.

    They change nothing but a visit's summary, so leaving them out of a second merge is safe as far as Redis keeps what
    it confirms. What has a transition is never left out: its identity's record is the consumer's work.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._half = most // 2
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, events: Iterable[Event]) -> None:
        """Note events just merged; the oldest are forgotten, half of all at a time."""
        self._newer.update(event.visit_id + event.event_id for event in events if not event.transition)
        if len(self._newer) >= self._half:
            self._older, self._newer = self._newer, set()

    def __contains__(self, event: Event) -> bool:
        key = event.visit_id + event.event_id
        return not event.transition and (key in self._newer or key in self._older)
