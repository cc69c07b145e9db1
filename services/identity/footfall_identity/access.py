"""Which roles may call which methods of IdentityService, under mutual TLS."""

from typing import Final

from footfall_servicekit.access import AccessTable

_CONTACT_CENTER: Final = [
    "GetVisitor",
    "ListVisitors",
    "CountVisitors",
    "GetVisitorMinutes",
    "WatchVisitors",
    "GetIdentity",
    "BatchGetIdentities",
    "ListIdentities",
    "UpsertContact",
    "UpdateContact",
    "BatchUpsertContacts",
    "BatchDeleteContacts",
    "FinishContactSync",
    "GetContact",
    "ListContacts",
    "DeleteContact",
    "LinkContact",
    "UnlinkContact",
    "ListContactLinks",
    "ListGenericValues",
    "DecideGenericValue",
    "GetPerson",
    "RenameIdentity",
    "UndoRename",
    "ListRenames",
    "BatchGetNames",
    "MergeContacts",
    "UndoMerge",
    "ListMerges",
]

ACCESS: AccessTable = {
    "collector": ["GetVisitor", "ResolveEvents"],
    "history": [
        "BatchGetIdentities",
        "BatchGetNames",
        "GetCustomer",
        "GetPerson",
        "GetVisitor",
        "ImportIdentities",
    ],
    # The gateway erases in both identity and history, for keys with the permission to erase. It asks for codes of
    # visits, for pages whose website it has checked.
    "gateway": [*_CONTACT_CENTER, "CreateVisitCode", "EraseIdentity"],
    "contact-center": _CONTACT_CENTER,
}
