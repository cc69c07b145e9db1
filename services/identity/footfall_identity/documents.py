"""Documents of MongoDB: found by one of many values, and replaced unless they have been changed meanwhile."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

# SecantusDB compares each document with each value of an `$in`: by ids, groups of about 25 cost it least.
_VALUES_PER_QUERY: Final = 25


def in_groups(values: Iterable[str], size: int = _VALUES_PER_QUERY) -> list[list[str]]:
    """Return these values, each once, in groups of `size` for one query."""
    wanted = list(dict.fromkeys(values))
    return [wanted[start : start + size] for start in range(0, len(wanted), size)]


async def find_any(
    collection: Any,
    field: str,
    values: Iterable[str],
    fields: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the documents whose field has one of these values and that match `where`. Raises what the driver raises.

    A field that is a list may have several of the values: then a document may come more than once.
    """
    queries = (
        collection.find({field: {"$in": group}, **(where or {})}, fields).to_list(None) for group in in_groups(values)
    )
    return [document for found in await asyncio.gather(*queries) for document in found]


async def has_replaced(collection: Any, before_rev: str | None, document: dict[str, Any]) -> bool:
    """Replace the document with the same `_id` if it has this `rev` (None: insert it); return whether that was done.

    Raises what the driver raises.
    """
    condition = {"_id": document["_id"]}
    if before_rev is not None:
        return bool((await collection.replace_one({**condition, "rev": before_rev}, document)).matched_count)
    rest = {name: value for name, value in document.items() if name != "_id"}
    return not (await collection.update_one(condition, {"$setOnInsert": rest}, upsert=True)).matched_count
