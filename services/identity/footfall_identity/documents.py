"""Documents of MongoDB: found by one of many values, and replaced unless they have been changed meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec

Given = ParamSpec("Given")

# SecantusDB compares each document with each value of an `$in`, so larger groups gain little.
_VALUES_PER_QUERY: Final = 100


def in_groups(values: Iterable[str], size: int = _VALUES_PER_QUERY) -> list[list[str]]:
    """Return these values, each once, in groups of `size` for one query."""
    wanted = list(dict.fromkeys(values))
    return [wanted[start : start + size] for start in range(0, len(wanted), size)]


async def open_with(
    collection: Any,
    where: Mapping[str, Any],
    rest: Mapping[str, Any] | None,
    fields: Mapping[str, int] | None = None,
    *,
    by: str = "",
    limit: int = 0,
) -> Any:
    """Return a cursor over the first documents by a field that match `where`, for which there is an index, and `rest`.

    SecantusDB uses an index only if it has all fields of the first stage. MongoDB joins both stages. Raises what the
    driver raises.
    """
    stages: list[Mapping[str, Any]] = [{"$match": where}, {"$match": rest or {}}]
    if by:
        stages.append({"$sort": {by: 1}})
    if limit:
        stages.append({"$limit": limit})
    if fields:
        stages.append({"$project": fields})
    return await collection.aggregate(stages)


async def all_of(
    open_cursor: Callable[Given, Awaitable[Any]], *args: Given.args, **kwargs: Given.kwargs
) -> list[dict[str, Any]]:
    """Return all documents of the cursor that a function opens. Raises what the driver raises."""
    found: list[dict[str, Any]] = await (await open_cursor(*args, **kwargs)).to_list(None)
    return found


async def find_any(
    collection: Any,
    field: str,
    values: Iterable[str],
    fields: Mapping[str, Any] | None = None,
    rest: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the documents whose field has one of these values and that match `rest`. Raises what the driver raises.

    A field that is a list may have several of the values: then a document may come more than once.
    """
    filters = [{field: {"$in": group}} for group in in_groups(values)]
    queries = [
        all_of(open_with, collection, where, rest, fields) if rest else collection.find(where, fields).to_list(None)
        for where in filters
    ]
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
