"""Makes the indexes that only the embedded MongoDB-wire server needs. `make run` and the tests use it.

MongoDB finds a document by its id and compares the other conditions of a filter with it. SecantusDB's server in Rust
uses an index only if it has all fields of a filter, else it reads the whole collection. So there the collections whose
documents are replaced only if they still have a revision need an index on both.
"""

import os
from typing import Any, Final

from pymongo import ASCENDING, MongoClient
from pymongo.database import Database

_COLLECTIONS: Final = ("contacts", "identities", "interactions", "visits")
_START_MS: Final = 60_000
"""How long the server may take to start."""


def make_indexes(database: "Database[Any]") -> None:
    """Make them in a database, which may be empty."""
    for name in _COLLECTIONS:
        database[name].create_index([("_id", ASCENDING), ("rev", ASCENDING)])


def main() -> None:
    """Make them for the suite that has this environment."""
    with MongoClient[Any](os.environ["MONGO_URL"], serverSelectionTimeoutMS=_START_MS) as client:
        make_indexes(client[os.environ.get("MONGO_DATABASE", "footfall")])


if __name__ == "__main__":
    main()
