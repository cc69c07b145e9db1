"""Turns a client's role into the methods that it may call, where there is mutual TLS."""

from typing import Final

from footfall_servicekit.access import AccessTable

_CONTACT_CENTER: Final = [
    "ExplainVisit",
    "GetVisit",
    "ListVisits",
    "GetPage",
    "ListPages",
    "GetSession",
    "ListSessions",
    "GetEvent",
    "GetReceipt",
    "ListEvents",
    "ListVisitIdentities",
    "ListIdentityIds",
    "StreamRelated",
    "StreamEvents",
    "ExportIdentity",
]

ACCESS: AccessTable = {
    # An erasure has two halves, here and in identity. The gateway asks for both, and has a scope for it.
    "gateway": [*_CONTACT_CENTER, "EraseIdentity"],
    "contact-center": _CONTACT_CENTER,
}
