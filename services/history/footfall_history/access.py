"""Which roles and scopes may call which methods of HistoryService."""

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
    "GetCustomerContext",
    "GetInteraction",
    "ListInteractions",
    "ListScorecards",
    "SimulatePolicy",
    "StreamEvents",
    "ExportIdentity",
]

ACCESS: AccessTable = {
    # An erasure has two halves, here and in identity. Only the gateway calls both, with an API key's permission.
    # It also shows dead letters to operators, who replay and repair them.
    "gateway": [*_CONTACT_CENTER, "EraseIdentity", "ListDeadLetters", "ReplayDeadLetters", "RepairDeadLetter"],
    "contact-center": _CONTACT_CENTER,
    "collector": ["GetVisit"],
    "identity": ["ExplainVisit", "StreamLiveVisits"],
    "relay": ["StreamAttributions"],
}

SCOPES: AccessTable = {
    "read": [*_CONTACT_CENTER, "StreamLiveVisits", "StreamAttributions", "ListDeadLetters"],
    "ingest": ["ReplayDeadLetters", "RepairDeadLetter"],
    "erase": ["EraseIdentity"],
}
"""The methods that each scope of an API key may call."""
