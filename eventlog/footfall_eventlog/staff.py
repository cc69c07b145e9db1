"""What marks an event as one of staff, such as an agent at work: its site, or the address of its sender."""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final


class StaffRules:
    """The sites and networks of staff. Without any, no address is looked at."""

    def __init__(self, sites: Iterable[str] = (), networks: Iterable[str] = ()) -> None:
        """Take names of sites, and addresses or networks (CIDR). Raises ValueError for another text."""
        self.sites: Final = frozenset(sites)
        # The networks as numbers, by version and number of host bits: the cost does not grow with their number.
        self._networks: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for text in networks:
            network = ip_network(text)
            host_bits = network.max_prefixlen - network.prefixlen
            self._networks[network.version, host_bits].add(int(network.network_address) >> host_bits)
        self._has_cached = lru_cache(maxsize=16_384)(self._has)

    def has_address(self, address: str) -> bool:
        """Whether an address is in a network of staff. A text that is no address is in none."""
        return bool(self._networks) and self._has_cached(address)

    def _has(self, text: str) -> bool:
        try:
            address: IPv4Address | IPv6Address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        number = int(address)
        return any(
            version == address.version and number >> host_bits in starts
            for (version, host_bits), starts in self._networks.items()
        )
