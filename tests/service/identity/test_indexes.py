"""Identity makes its indexes without a time limit, while it serves."""

from typing import Any

from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from pymongo import AsyncMongoClient
from structlog.testing import capture_logs

from tests.tools.faulty_mongo import faulty_mongo
from tests.tools.slow_builds import slow_builds

EMBEDDED = {"_id_1_rev_1"}
"""Of deploy/mongo_indexes.py."""


async def test_a_build_may_take_longer_than_a_command(mongo_url: str, mongo_database: str) -> None:
    with faulty_mongo(mongo_url) as mongo:
        links = LinkStore(mongo.url, mongo_database, timeout_ms=500, erasure_secret="")
        await links.replace([(None, IdentityRecord(identity_id="dana"))])
        with capture_logs() as lines, slow_builds(mongo, 1.3, count=1):
            await links.prepare()
        of_first = [line["event"] for line in lines if line["index"] == "contacts.search_keys._id"]
        assert of_first == ["an index is being built", "an index is built"], "and no line about a time limit"
        await links.close()
        async with AsyncMongoClient[Any](mongo_url) as client:
            database = client[mongo_database]
            made = {
                name: set(await database[name].index_information()) - EMBEDDED for name in ("identities", "contacts")
            }
    fields = ("location", "hash", "contact_id", "by_hand", "is_due", "device_peak", "doubt")
    assert made == {
        "identities": {"_id_", "keys_1__id_1", "proven_keys_1__id_1", *(f"{field}_1" for field in fields)},
        "contacts": {"_id_", "search_keys_1__id_1"},
    }
