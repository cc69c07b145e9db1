"""A Redis that lacks what is asked of it is refused at the start, by its name and version."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from footfall_eventlog.partitions import (
    MIN_VERSION,
    MIN_VERSION_WITH_WAITAOF,
    Version,
    check_version,
)
from footfall_servicekit.background import RefusalError

from tests.tools.process import Service, running_service
from tests.tools.scripted_redis import bulk, scripted_redis


@pytest.mark.parametrize(
    ("info", "oldest"),
    [
        ({"redis_version": "7.0.0"}, MIN_VERSION),
        ({"redis_version": 7.4}, MIN_VERSION),  # redis-py takes it for a number
        ({"redis_version": "10.0.1"}, MIN_VERSION),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.0.0"}, MIN_VERSION_WITH_WAITAOF),
        ({"redis_version": "unknown"}, MIN_VERSION),
        ({}, MIN_VERSION),
    ],
)
def test_what_is_new_enough_or_does_not_tell_is_taken(info: dict[str, Any], oldest: Version) -> None:
    check_version(info, oldest)


@pytest.mark.parametrize(
    ("info", "oldest", "message"),
    [
        (
            {"redis_version": "6.2.14"},
            MIN_VERSION,
            r"Redis 6\.2\.14 is too old: Redis 7\.0 or later is needed, or Valkey",
        ),
        ({"redis_version": "7.0.15"}, MIN_VERSION_WITH_WAITAOF, r"Redis 7\.0\.15 is too old: Redis 7\.2 or later"),
        ({"redis_version": "6.3.4", "server_name": "keydb"}, MIN_VERSION, r"Keydb 6\.3\.4 is too old"),
    ],
)
def test_what_is_too_old_is_named(info: dict[str, Any], oldest: Version, message: str) -> None:
    with pytest.raises(RefusalError, match=message):
        check_version(info, oldest)


@pytest.mark.parametrize(
    ("service", "version", "replicas"),
    [("collector", "7.0.15", 1), ("identity", "7.0.15", 1), ("history", "6.2.14", 0)],
)
async def test_a_service_does_not_start_on_it(service: Service, version: str, replicas: int, tmp_path: Path) -> None:
    async with scripted_redis(INFO=bulk(f"# Server\r\nredis_version:{version}\r\n")) as redis:
        settings = {"REDIS_URL": redis.url, "MONGO_URL": "mongodb://127.0.0.1:1", "NEVER_ERASE": True}
        async with running_service(service, tmp_path, **settings, LOG_ACK_REPLICAS=replicas) as running:
            assert await asyncio.to_thread(running.process.wait, 20) == 2
            assert f"Redis {version} is too old" in running.output()
