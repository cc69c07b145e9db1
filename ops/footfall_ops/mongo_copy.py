"""Reads and writes whole collections of MongoDB as BSON: the only module that knows a driver."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.write_concern import WriteConcern

_BYTES_PER_WRITE: Final = 4 * 1024 * 1024
_DOCUMENTS_PER_WRITE: Final = 1_000


class Database:
    """The database of a deployment. Methods raise what the driver raises."""

    def __init__(self, url: str, name: str, timeout_ms: int) -> None:
        self._client: AsyncMongoClient[Any] = AsyncMongoClient(url, serverSelectionTimeoutMS=timeout_ms)
        options: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
        concern = WriteConcern(**{**self._client.write_concern.document, "j": True})
        self._database = self._client.get_database(name, codec_options=options, write_concern=concern)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def names(self) -> list[str]:
        """The names of the collections that have documents."""
        names = [name for name in await self._database.list_collection_names() if not name.startswith("system.")]
        return sorted([name for name in names if await self._database[name].find_one({}, ["_id"])])

    async def documents(self, name: str) -> AsyncIterator[bytes]:
        """The documents of a collection."""
        async for document in self._database[name].find({}):
            yield document.raw

    async def insert(self, name: str, documents: Iterable[bytes]) -> int:
        """Store documents in an empty collection. Returns how many."""
        count = size = 0
        part: list[RawBSONDocument] = []
        for document in documents:
            part.append(RawBSONDocument(document))
            size += len(document)
            if size >= _BYTES_PER_WRITE or len(part) == _DOCUMENTS_PER_WRITE:
                await self._database[name].insert_many(part, ordered=False)
                count, size, part = count + len(part), 0, []
        if part:
            await self._database[name].insert_many(part, ordered=False)
        return count + len(part)

    async def replace(self, name: str, document_id: str, document: Mapping[str, Any]) -> None:
        """Store a document in the place of the one with this id. Until it is stored, that one remains."""
        collection = self._database[name]
        await collection.replace_one({"_id": document["_id"]}, document, upsert=True)
        if document["_id"] != document_id:
            await collection.delete_one({"_id": document_id})

    async def drop(self, name: str) -> None:
        """Remove a collection with its indexes."""
        await self._database.drop_collection(name)


def decoded(document: bytes) -> Mapping[str, Any]:
    """A document as a mapping."""
    return bson.decode(document)
