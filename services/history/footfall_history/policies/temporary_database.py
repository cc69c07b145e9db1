"""A database that memory need not hold: SQLite keeps it in a file without a name.

Nothing is left on disk when the process ends, also when it is killed. Memory holds a page cache of fixed size.
"""

import sqlite3
from typing import Final

_CACHE_KIB: Final = 16_384


def temporary_database(schema: str) -> sqlite3.Connection:
    """Open a new one with these tables."""
    database = sqlite3.connect("", isolation_level=None)
    for pragma in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
        database.execute(f"PRAGMA {pragma}")
    database.executescript(schema)
    return database
