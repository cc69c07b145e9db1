"""Which roles may call which methods of IdentityService, under mutual TLS."""

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
    # The gateway erases in both identity and history, for keys with the permission to erase.
    "gateway": [*_CONTACT_CENTER, "EraseIdentity"],
    "contact-center": _CONTACT_CENTER,
}
