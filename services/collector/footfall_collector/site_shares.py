"""How much of the event log each site takes, and which sites exceed their share."""

from collections.abc import Iterable
from typing import Final

_MAX_SITES: Final = 1_000  # without SITES_FILE, senders can invent site names
_OTHER_SITES: Final = ""
_MIN_BYTES: Final = 1.0


class SiteShares:
    """Bytes in the log by site, counting what this process has appended.

    Each replica of the collector sees about the same mixture of sites, so each finds about the same proportions.
    When the log shrinks, all sites are scaled down alike, although older entries leave first.
    """

    def __init__(self, largest: float) -> None:
        """`largest`: the part (0 to 1) of the log's maximum size that a site may take while others have events."""
        self._largest = largest
        self._held: dict[str, float] = {}
        self._total = 0.0

    def add(self, site: str, size: float) -> None:
        """Count `size` bytes that a site has appended."""
        site = self._counted_as(site)
        self._held[site] = self._held.get(site, 0.0) + size
        self._total += size

    def scale_to(self, log_bytes: float) -> None:
        """Reduce all sites in proportion, so that together they take at most the measured size of the log."""
        factor = min(1.0, log_bytes / self._total) if self._total else 0.0
        self._held = {site: held * factor for site, held in self._held.items() if held * factor >= _MIN_BYTES}
        self._total = sum(self._held.values())

    def over_share(self, sites: Iterable[str], fullness: float) -> set[str]:
        """Return those of the sites that exceed their share. `fullness`: size of the log / its maximum size."""
        if fullness < self._largest:
            return set()
        return {site for site in sites if self._is_over_share(self._held.get(self._counted_as(site), 0.0), fullness)}

    def is_any_over_share(self, fullness: float) -> bool:
        """Whether any site exceeds its share."""
        return any(self._is_over_share(held, fullness) for held in self._held.values())

    def _is_over_share(self, held: float, fullness: float) -> bool:
        is_alone = held >= self._total
        return not is_alone and fullness * held / self._total >= self._largest

    def _counted_as(self, site: str) -> str:
        return site if site in self._held or len(self._held) < _MAX_SITES else _OTHER_SITES
