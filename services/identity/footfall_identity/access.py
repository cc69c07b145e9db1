"""Turns a client's role into the methods that it may call, where there is mutual TLS."""

from typing import Final

from footfall_servicekit.access import AccessTable

_CONTACT_CENTER: Final = [
    "GetVisitor",
    "ListVisitors",
    "WatchVisitors",
    "GetIdentity",
    "BatchGetIdentities",
    "ListIdentities",
    "UpsertContact",
    "GetContact",
    "DeleteContact",
    "LinkContact",
    "UnlinkContact",
    "ListContactLinks",
    "GetPerson",
]

ACCESS: AccessTable = {
    "collector": ["ResolveEvents"],
    "history": ["BatchGetIdentities", "ImportIdentities"],
    # An erasure has two halves, here and in history. The gateway asks for both, and has a scope for it.
    "gateway": [*_CONTACT_CENTER, "EraseIdentity"],
    "contact-center": _CONTACT_CENTER,
}
