"""A Redis client for each partition, on a single Redis or on any node of a Redis Cluster.

All keys of a partition have one hash tag, so they are in one slot of a cluster. The map of slots is not read: a node
that does not hold a slot answers MOVED and names the node that does. So a single Redis is a cluster that never answers
MOVED, no setting is needed, and a node that is down makes only its own partitions unavailable.
"""

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import structlog
from footfall_servicekit import metrics
from footfall_servicekit.background import RefusalError
from footfall_servicekit.failure_log import FailureLog
from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot


class NodeNotReadyError(redis_errors.ResponseError):
    """A node temporarily refuses commands: its disk is full, a script runs, or its replicas or primary are down."""


_NOT_READY: Final = ("MISCONF ", "BUSY ", "NOREPLICAS ", "MASTERDOWN ")

TRANSIENT_ERRORS: Final = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.AskError,  # MovedError is one
    redis_errors.TryAgainError,
    redis_errors.OutOfMemoryError,
    NodeNotReadyError,
)
"""What is raised while the node of a partition is unavailable, or no longer holds it. The command may succeed later.

Any other error of Redis means that the command is wrong, and will fail again.
"""
ANY_ERRORS: Final = (*TRANSIENT_ERRORS, redis_errors.RedisError)
"""For work that may fail in any way without harm: other work says what is wrong."""

PARTITION_COUNT_KEY: Final = "log:partitions"

Version = tuple[int, ...]
MIN_VERSION: Final = 7, 0
"""The first version of Redis whose XAUTOCLAIM returns deleted entries, and that counts all entries ever added."""
MIN_VERSION_WITH_WAITAOF: Final = 7, 2
_WAITING: Final = {"XREAD", "XREADGROUP"}

_RETRY_S: Final = 0.5
_PING_S: Final = 1.0

_log = structlog.get_logger()
_unavailable = FailureLog("Redis does not answer", "store")


def hash_tag(number: int) -> str:
    """The part that the names of all keys of a partition share."""
    return f"{{p{number:02d}}}"


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class SlotMap:
    """Which node holds which slot, as far as it is known from redirections."""

    def __init__(self, url: str) -> None:
        options = parse_url(url)
        self._first = Address(options.get("host", "localhost"), options.get("port", 6379))
        self._by_slot: dict[int, Address] = {}
        self.is_closed = False

    def node_of(self, slot: int) -> Address:
        """The node that a command for the slot is sent to."""
        return self._by_slot.get(slot, self._first)

    def moved(self, slot: int, address: Address) -> None:
        """A node has answered that another node holds the slot."""
        self._by_slot[slot] = address

    def lost(self, slot: int, address: Address) -> None:
        """A node is unreachable, or its cluster is down. Another node may know which one has taken over."""
        others = sorted({self._first, *self._by_slot.values()} - {address})
        if others and self.node_of(slot) == address:
            self._by_slot[slot] = random.choice(others)  # noqa: S311  # no secret


class _RedirectedConnection(Connection):
    """A connection to the node that holds a slot, which follows the slot when it moves."""

    def __init__(self, *, slot_map: SlotMap, slot: int, **options: Any) -> None:
        super().__init__(**options)
        self._slot_map = slot_map
        self._slot = slot

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect; called by redis-py before each use."""
        address = self._slot_map.node_of(self._slot)
        if (self.host, self.port) != address:
            await self.disconnect()
            self.host, self.port = address
        try:
            await super().connect_check_health(*args, **options)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._slot_map.lost(self._slot, address)
            raise
        if self._slot_map.is_closed:  # redis-py would open a connection after closing, and never close that one
            await self.disconnect()
            raise redis_errors.ConnectionError("closed")

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Write. redis-py would use asyncio.wait_for, which may lose a cancellation before Python 3.12."""
        timeout_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(*args, **options)
        except TimeoutError:
            raise redis_errors.TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = timeout_s

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer, and note what it says about the places of slots."""
        try:
            return await super().read_response(*args, **options)
        except redis_errors.MovedError as error:
            self._slot_map.moved(error.slot_id, Address(error.host or self.host, error.port))
            raise
        except redis_errors.ClusterDownError:
            self._slot_map.lost(self._slot, Address(self.host, self.port))
            raise
        except redis_errors.ReadOnlyError:  # now a replica; its host name may belong to another node by now
            self.mark_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py lacks a type here
            raise
        except redis_errors.ResponseError as error:
            if str(error).startswith(_NOT_READY):
                raise NodeNotReadyError(str(error)) from None
            raise


class _RedirectedTlsConnection(_RedirectedConnection, SSLConnection):
    pass


class _MeasuredRedis(Redis):
    """A client that measures its commands. A read of the log may wait for entries, so it is not measured."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py lacks it
        finally:
            if args[0] not in _WAITING:
                metrics.store_seconds("redis", args[0]).observe(time.perf_counter() - started)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _MeasuredPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _MeasuredPipeline(Pipeline):
    async def execute(self, *args: Any, **options: Any) -> list[Any]:
        with metrics.store_seconds("redis", "PIPELINE").time():
            return await super().execute(*args, **options)


def connection_pool(
    url: str, key: str, *, timeout_ms: int, max_connections: int | None = None, slot_map: SlotMap | None = None
) -> ConnectionPool:
    """Connections for a key and all keys with its hash tag. The caller closes the pool."""
    options: dict[str, Any] = dict(parse_url(url))
    is_encrypted = issubclass(options.pop("connection_class", Connection), SSLConnection)
    return ConnectionPool(
        connection_class=_RedirectedTlsConnection if is_encrypted else _RedirectedConnection,
        max_connections=max_connections,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        # One immediate retry: a connection that has died while idle fails only when it is used, and a node that answers
        # MOVED has executed nothing. No retry after a timeout: the caller has waited long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis_errors.ConnectionError, redis_errors.MovedError)),
        slot_map=slot_map or SlotMap(url),
        slot=key_slot(key.encode()),
        **options,
    )


def redis_client(url: str, key: str, *, timeout_ms: int) -> Any:  # its commands have types that mix sync and async
    """A client for a key and all keys with its hash tag, without connecting. The caller closes it."""
    return Redis.from_pool(connection_pool(url, key, timeout_ms=timeout_ms))


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError for a URL that redis-py cannot use."""
    try:
        connections: Any = connection_pool(url, PARTITION_COUNT_KEY, timeout_ms=1)  # redis-py lacks a type here
        database = connections.make_connection().db
    except (ValueError, TypeError):
        raise ValueError("must be `redis://host:port` or `rediss://...`, with options that redis-py has") from None
    path = urlsplit(url).path.strip("/")
    if path and path != str(database):
        raise ValueError("must end with the number of a database, or without any")
    return url


class Node(NamedTuple):
    """A node, a client for it, and the partitions that it holds."""

    address: Address
    client: Any  # a Redis: its commands have types that mix sync and async
    numbers: list[int]


def is_forbidden(error: redis_errors.RedisError) -> bool:
    """Whether a server does not allow or does not have a command, which is common for managed servers."""
    return isinstance(error, redis_errors.NoPermissionError) or str(error).startswith("unknown command")


def check_version(info: Mapping[str, Any], oldest: Version) -> None:
    """Check the version in the INFO of a server. An unknown version is accepted. Raises RefusalError.

    Valkey and other servers report the version of Redis that they are compatible with beside their own.
    """
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version))
    if numbers and numbers < oldest:
        name = info.get("server_name", "redis").capitalize()
        needed = ".".join(map(str, oldest))
        raise RefusalError(f"REDIS_URL: {name} {version} is too old: Redis {needed} or later is needed, or Valkey")


async def _check_node(node: Node, oldest: Version) -> None:
    try:
        check_version(await node.client.info("server"), oldest)
    except redis_errors.RedisError as error:  # a node that is down must not stop the others
        _log.warning("the version of Redis cannot be read", host=node.address.host, error=type(error).__name__)


class PartitionedRedis:
    """The Redis of a deployment. It connects with the first command."""

    def __init__(self, url: str, count: int, *, timeout_ms: int, max_connections: int | None = None) -> None:
        """Use the Redis at a URL, which may be any node of a cluster. `max_connections`: a partition, else 100."""
        self._slot_map = SlotMap(url)
        self._slots = [key_slot(hash_tag(number).encode()) for number in range(count)]

        def client(key: str) -> Any:
            connections = connection_pool(
                url, key, timeout_ms=timeout_ms, max_connections=max_connections, slot_map=self._slot_map
            )
            return _MeasuredRedis.from_pool(connections)

        self._clients = [client(hash_tag(number)) for number in range(count)]
        self._count_client = client(PARTITION_COUNT_KEY)
        self.is_checked = False

    @property
    def numbers(self) -> range:
        """The numbers of the partitions."""
        return range(len(self._clients))

    def __getitem__(self, number: int) -> Any:
        """The client for the keys of a partition. It must not be used for other keys."""
        return self._clients[number]

    def nodes(self, numbers: Iterable[int] | None = None) -> list[Node]:
        """The nodes that hold these partitions (default: all), as far as known. A command may still be MOVED."""
        found: dict[Address, list[int]] = defaultdict(list)
        for number in self.numbers if numbers is None else numbers:
            found[self._slot_map.node_of(self._slots[number])].append(number)
        return [Node(address, self._clients[group[0]], group) for address, group in found.items()]

    async def check(self, *, needs_waitaof: bool = False, is_trial: bool = False) -> None:
        """Wait until Redis answers, then check the number of partitions of its data, and its version.

        The first process that finds Redis empty writes its number, unless it is a trial. Raises RefusalError when one
        of them is wrong, or when Redis refuses the user, password or database of REDIS_URL.
        """
        mine = str(len(self._clients))
        while not self.is_checked:
            try:
                if not is_trial:
                    await self._count_client.set(PARTITION_COUNT_KEY, mine, nx=True)
                made_with = await self.made_with() or mine
            except redis_errors.AuthenticationError:
                raise RefusalError("REDIS_URL: Redis does not accept its user and password") from None
            except TRANSIENT_ERRORS as error:
                _unavailable.failed("Redis", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
                continue
            except redis_errors.NoPermissionError:
                raise RefusalError("REDIS_URL: its user lacks the permission for a command that is needed") from None
            except redis_errors.ResponseError as error:
                if not re.match("DB index|SELECT is not", str(error)):
                    raise
                raise RefusalError("REDIS_URL: Redis does not have the database of this number") from None
            _unavailable.worked("Redis")
            if not made_with.isdecimal():
                raise RefusalError(
                    f"the number of partitions of the data in this Redis is being changed ({made_with}): finish "
                    "`footfall-ops repartition` first"
                )
            if made_with != mine:
                raise RefusalError(
                    f"PARTITIONS is {mine}, but the data in this Redis was made with {made_with}. Set "
                    f"PARTITIONS={made_with} for every service, or start with an empty Redis."
                )
            await self.find_nodes()
            for node in self.nodes():
                await _check_node(node, MIN_VERSION_WITH_WAITAOF if needs_waitaof else MIN_VERSION)
            self.is_checked = True

    async def made_with(self) -> str:
        """The number of partitions that the data in Redis was made with; empty for an empty Redis.

        While it is being changed: the former number, `>` while data are copied or `>>` after that, and the next number.
        """
        found = await self._count_client.get(PARTITION_COUNT_KEY)
        return found.decode() if found else ""

    async def note_made_with(self, text: str) -> None:
        """Write what `made_with` returns. Raises TRANSIENT_ERRORS."""
        await self._count_client.set(PARTITION_COUNT_KEY, text)

    async def keep_count(self) -> None:
        """Write the number of partitions again if Redis has lost it. Raises TRANSIENT_ERRORS."""
        await self._count_client.set(PARTITION_COUNT_KEY, len(self._clients), nx=True)

    async def find_nodes(self) -> None:
        """Send one command to each partition, so that a redirection names its node."""
        asking = (client.exists(hash_tag(number)) for number, client in enumerate(self._clients))
        await asyncio.gather(*asking, return_exceptions=True)

    async def is_ready(self) -> bool:
        """Whether `check` has passed and at least one node answers within a second."""
        for node in self.nodes() if self.is_checked else ():
            with suppress(redis_errors.RedisError, TimeoutError):
                async with asyncio.timeout(_PING_S):
                    return bool(await node.client.ping())
        return False

    async def aclose(self) -> None:
        """Close the connections permanently."""
        self._slot_map.is_closed = True
        await asyncio.gather(*(client.aclose() for client in (*self._clients, self._count_client)))
