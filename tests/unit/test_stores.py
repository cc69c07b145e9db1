"""The embedded stores: found in the installed packages, and stopped without losing data."""

import os
from pathlib import Path

from pymongo import MongoClient
from redis import Redis

from deploy.embedded import valkey_server
from tests.tools.stores import running_mongo, running_valkey


def test_the_valkey_server_is_found_in_the_package_that_ships_it() -> None:
    assert os.access(valkey_server(), os.X_OK)


def test_valkey_keeps_its_data_over_a_restart_and_evicts_nothing(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as url, Redis.from_url(url) as redis:
        redis.set("kept", "yes")
    with running_valkey(tmp_path) as url, Redis.from_url(url, decode_responses=True) as redis:
        assert redis.get("kept") == "yes"
        pinned = redis.config_get("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
        assert pinned == {
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction",
        }


def test_the_mongodb_wire_server_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    with running_mongo(tmp_path) as url, MongoClient[dict[str, str]](url) as client:
        client.test.kept.insert_one({"_id": "kept"})
    with running_mongo(tmp_path) as url, MongoClient[dict[str, str]](url) as client:
        assert client.test.kept.find_one() == {"_id": "kept"}
