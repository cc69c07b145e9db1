"""Addresses of clients."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=65_536)
def network(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the /64 of an IPv6 one: a host has as many in it as it likes."""
    address = address.removeprefix("::ffff:")
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
