"""Who makes a call: by the name in a certificate, or by an API key."""

from collections.abc import Callable
from typing import NamedTuple


class Caller(NamedTuple):
    """The holder of an API key. `sites` empty: all sites."""

    name: str
    key: str
    """The id of the key."""
    scopes: frozenset[str]
    sites: frozenset[str]


FindCaller = Callable[[str], Caller | None]
"""From a token to its caller; None: it is none of a valid key."""


class Grant(NamedTuple):
    """The role of the callers whose certificate has a name. `sites` empty: all sites."""

    name: str
    role: str
    sites: frozenset[str] = frozenset()
