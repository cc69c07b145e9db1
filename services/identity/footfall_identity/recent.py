"""Turns entries of the log whose events ResolveEvents has merged here into those its consumer need not merge again."""

from collections.abc import Iterable

_MOST = 10_000
"""A minute's worth at the rate one process can take; about 1.5 MB."""


class RecentEntries:
    """The latest entries whose events Redis has confirmed to have merged, by partition and id.

    Those without a transition change nothing but a visit's summary, so leaving them out of a second merge is safe as
    far as Redis keeps what it confirms. Those with one are never left out: records of identities are the consumer's.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: dict[tuple[int, str], None] = {}

    def add(self, entries: Iterable[tuple[int, str]]) -> None:
        """Note entries just merged; the oldest are forgotten."""
        self._known.update(dict.fromkeys(entries))
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def __contains__(self, entry: tuple[int, str]) -> bool:
        return entry in self._known
