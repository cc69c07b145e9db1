"""Which roles and scopes may call which methods of IdentityService."""

from typing import Final

from footfall_servicekit.access import AccessTable

_READ: Final = [
    "GetVisitor",
    "ListVisitors",
    "CountVisitors",
    "GetVisitorMinutes",
    "WatchVisitors",
    "GetIdentity",
    "BatchGetIdentities",
    "ListIdentities",
    "GetContact",
    "ListContacts",
    "ListContactLinks",
    "ListGenericValues",
    "GetPerson",
    "ListRenames",
    "BatchGetNames",
    "ListMerges",
]
_WRITE: Final = [
    "UpsertContact",
    "UpdateContact",
    "BatchUpsertContacts",
    "BatchDeleteContacts",
    "FinishContactSync",
    "DeleteContact",
    "LinkContact",
    "UnlinkContact",
    "DecideGenericValue",
    "RenameIdentity",
    "UndoRename",
    "MergeContacts",
    "UndoMerge",
]
_CONTACT_CENTER: Final = [*_READ, *_WRITE]

ACCESS: AccessTable = {
    "collector": ["GetVisitor", "ResolveEvents"],
    "history": [
        "BatchGetIdentities",
        "BatchGetNames",
        "CountLinks",
        "GetCustomer",
        "GetPerson",
        "GetVisitor",
        "ImportIdentities",
        "JudgeLinks",
    ],
    # The gateway erases in both identity and history, for keys with the permission to erase. It asks for codes of
    # visits, for pages whose website it has checked.
    "gateway": [*_CONTACT_CENTER, "CreateVisitCode", "EraseIdentity"],
    "contact-center": _CONTACT_CENTER,
    "relay": ["BatchGetIdentities"],
}

SCOPES: AccessTable = {
    "read": [*_READ, "CountLinks", "GetCustomer", "JudgeLinks"],
    "contacts": [*_WRITE, "ImportIdentities"],
    "ingest": ["ResolveEvents", "CreateVisitCode"],
    "erase": ["EraseIdentity"],
}
"""The methods that each scope of an API key may call."""
