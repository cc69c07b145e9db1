"""IP addresses of clients."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=65_536)
def network(address: str) -> str:
    """The network that limits treat as one sender: an IPv4 address, or the /64 that an IPv6 host can use freely."""
    address = address.removeprefix("::ffff:")
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
