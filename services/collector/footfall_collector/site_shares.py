"""Turns what sites append into which of them hold so much of the log that they must leave the rest to the others."""

from collections.abc import Iterable
from typing import Final

_MOST_SITES: Final = 1_000  # without SITES_FILE senders make them up
_OTHERS: Final = ""
_FORGOTTEN_BELOW: Final = 1.0


class Shares:
    """What each site has in the log, in bytes, as far as this process appended it.

    Collectors side by side get a like mixture of events, so each of them finds the same proportions. That older entries
    leave the log first is not kept in mind: what is removed is taken from all sites alike.
    """

    def __init__(self, largest: float) -> None:
        """Let one site have this part of the log's bound, 0 to 1, while others have something in the log too."""
        self._largest = largest
        self._held: dict[str, float] = {}
        self._total = 0.0

    def add(self, site: str, size: float) -> None:
        """Count what a site has appended."""
        known = self._known(site)
        self._held[known] = self._held.get(known, 0.0) + size
        self._total += size

    def fit(self, log_bytes: float) -> None:
        """Count off what has left the log, which has been seen to hold so much."""
        left = min(1.0, log_bytes / self._total) if self._total else 0.0
        self._held = {site: held * left for site, held in self._held.items() if held * left >= _FORGOTTEN_BELOW}
        self._total = sum(self._held.values())

    def too_large(self, sites: Iterable[str], fullness: float) -> set[str]:
        """Those of the sites that have their share, when this part of the log's bound, 0 to 1, is taken by all."""
        if fullness < self._largest:
            return set()
        return {site for site in sites if self._is_too_large(self._held.get(self._known(site), 0.0), fullness)}

    def is_any_too_large(self, fullness: float) -> bool:
        """Whether any site has its share."""
        return any(self._is_too_large(held, fullness) for held in self._held.values())

    def _is_too_large(self, held: float, fullness: float) -> bool:
        is_alone = held >= self._total
        return not is_alone and fullness * held / self._total >= self._largest

    def _known(self, site: str) -> str:
        return site if site in self._held or len(self._held) < _MOST_SITES else _OTHERS
