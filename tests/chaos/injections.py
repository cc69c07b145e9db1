"""How faults begin and end: contexts, each of which injects one fault into a suite.

A fault begins when its context is entered, and ends when it is left. The context gives the ids of the events that the
fault removed from the log before history had stored them.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis.asyncio import Redis

from tests.chaos.comparison import events_only_in_log
from tests.tools.suite import Program, Store, Suite

EventIds = Collection[str]

_POLL_S: Final = 0.005
_KILLS_A_SECOND: Final = 3
_JOURNAL_MIB: Final = 32
_MIB: Final = 2**20


@dataclass(frozen=True)
class Target:
    """What a fault is injected into.

    - `seconds`: how long it will last.
    - `snapshot`: earlier data of the store that the fault restores.
    """

    suite: Suite
    seconds: float
    snapshot: Path | None = None


@asynccontextmanager
async def frozen(program: Program, target: Target) -> AsyncIterator[EventIds]:
    """A program is stopped by SIGSTOP."""
    with target.suite.frozen(program):
        yield ()


@asynccontextmanager
async def signalled(program: Program, number: Signals, target: Target) -> AsyncIterator[EventIds]:
    """A program gets a signal that ends it, and supervisord starts it again."""
    pid = target.suite.pid(program)
    target.suite.kill(program, number)
    while target.suite.pid(program) == pid:
        await asyncio.sleep(_POLL_S)
    yield ()


@asynccontextmanager
async def _admin(suite: Suite) -> AsyncIterator[Any]:
    """A client of Redis with one connection, which an operator has opened before the fault."""
    async with Redis.from_url(suite.redis_url, single_connection_client=True) as redis:
        await redis.ping()
        yield redis


async def _kill_clients(redis: Any) -> None:
    await redis.client_kill_filter(_type="normal", skipme=True)


@asynccontextmanager
async def _setting(name: str, value: str, redis: Any) -> AsyncIterator[None]:
    """Change a setting of the running Redis within the block."""
    before = (await redis.config_get(name))[name]
    await redis.config_set(name, value)
    try:
        yield
    finally:
        await redis.config_set(name, before)


@asynccontextmanager
async def out_of_memory(target: Target) -> AsyncIterator[EventIds]:
    """Redis refuses writes, because it uses more memory than it may."""
    async with _admin(target.suite) as redis, _setting("maxmemory", "1mb", redis):
        yield ()


@asynccontextmanager
async def password(target: Target) -> AsyncIterator[EventIds]:
    """Redis asks new connections for a password, and all are new."""
    async with _admin(target.suite) as redis, _setting("requirepass", "not known to the services", redis):
        await _kill_clients(redis)  # Redis asks only new connections for it
        yield ()


@asynccontextmanager
async def read_only(target: Target) -> AsyncIterator[EventIds]:
    """Redis refuses writes, because it is a replica."""
    async with _admin(target.suite) as redis:
        await redis.replicaof("127.0.0.1", 1)  # no server listens there
        try:
            yield ()
        finally:
            await redis.replicaof("NO", "ONE")


@asynccontextmanager
async def clients_killed(target: Target) -> AsyncIterator[EventIds]:
    """Redis disconnects all clients again and again."""

    async def kill_often(redis: Any) -> None:
        while True:
            await _kill_clients(redis)
            await asyncio.sleep(1 / _KILLS_A_SECOND)

    async with _admin(target.suite) as redis, asyncio.TaskGroup() as tasks:
        killing = tasks.create_task(kill_often(redis))
        yield ()
        killing.cancel()


@asynccontextmanager
async def paused(target: Target) -> AsyncIterator[EventIds]:
    """Redis answers no client."""
    async with _admin(target.suite) as redis:
        await redis.client_pause(round(target.seconds * 1_000))  # it ends by itself: UNPAUSE would wait as well
        yield ()


@asynccontextmanager
async def disk_full(store: Store, target: Target) -> AsyncIterator[EventIds]:
    """No store can write: the disk of its data, which must be small, is full."""
    filler = target.suite.data_dir / store / "filler"
    try:
        if store == "mongo":
            await asyncio.to_thread(_fill_under_mongo, filler, target.suite.mongo_url)
        else:
            _fill(filler)
        yield ()
    finally:
        filler.unlink()


def _fill_under_mongo(filler: Path, url: str) -> None:
    """Fill the disk, and then the 10 MB that MongoDB has reserved for its journal."""
    with MongoClient[dict[str, bytes]](url, timeoutMS=2_000) as mongo:
        ballast = mongo["ballast"]["ballast"]
        ballast.insert_one({"ballast": b""})  # a new collection needs new files
        _fill(filler)
        with suppress(PyMongoError):
            for _ in range(_JOURNAL_MIB):
                ballast.insert_one({"ballast": os.urandom(_MIB)})


def _fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as output:
        try:
            while True:
                output.write(bytes(_MIB))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@asynccontextmanager
async def emptied(target: Target) -> AsyncIterator[EventIds]:
    """Redis loses all of its data."""
    async with _admin(target.suite) as redis:
        async with _setting("maxmemory", "1", redis):  # nothing is appended between the two commands
            only_in_log = await events_only_in_log(redis)
            await redis.flushall()
        yield only_in_log


@asynccontextmanager
async def restored(store: Store, target: Target) -> AsyncIterator[EventIds]:
    """A store is stopped, and started with the data of its snapshot."""
    only_in_log: EventIds = ()
    if store == "valkey":
        async with _admin(target.suite) as redis:
            await redis.config_set("maxmemory", 1)  # until it is started again: nothing is appended after the next line
            only_in_log = await events_only_in_log(redis)
    await asyncio.to_thread(target.suite.stop, store)
    shutil.rmtree(target.suite.data_dir / store)
    assert target.snapshot
    target.snapshot.rename(target.suite.data_dir / store)
    try:
        yield only_in_log
    finally:
        await asyncio.to_thread(partial(target.suite.start, store, waits=False))
