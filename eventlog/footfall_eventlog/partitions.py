"""Turns a Redis URL into a client for each partition, whichever node of a Redis Cluster holds it, or a single Redis.

All keys of a partition have one hash tag, so one slot of a cluster. Nobody is asked beforehand which node holds which
slot: one that does not hold it answers MOVED and names the one that does. So a single Redis is a cluster that never
says MOVED, there is nothing to set, and a node that is down costs its own partitions and no others.
"""

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import structlog
from footfall_servicekit.background import RefusalError
from footfall_servicekit.values import StoreUrl
from pydantic import AfterValidator
from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot


class NodeNotReadyError(redis_errors.ResponseError):
    """A node cannot do what it could before: its disk is full, a script runs, or its replicas or primary are away."""


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
"""What is raised when the node of a partition does not answer, or does not hold it any more: it may soon.

Any other error of Redis says that what it was asked is wrong, and will be the next time.
"""

PARTITION_COUNT_KEY: Final = "log:partitions"

Version = tuple[int, ...]
MIN_VERSION: Final = 7, 0
"""Of Redis: the first that answers XAUTOCLAIM with what is gone, and counts what a stream was ever given."""
MIN_VERSION_WITH_WAITAOF: Final = 7, 2

_RETRY_S: Final = 0.5
_PING_S: Final = 1.0

_log = structlog.get_logger()


def hash_tag(number: int) -> str:
    """What every key of a partition has in its name."""
    return f"{{p{number:02d}}}"


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class SlotMap:
    """Which node holds which slot, as far as it is known."""

    def __init__(self, url: str) -> None:
        options = parse_url(url)
        self._first = Address(options.get("host", "localhost"), options.get("port", 6379))
        self._by_slot: dict[int, Address] = {}
        self.is_closed = False

    def of(self, slot: int) -> Address:
        """The node to be asked."""
        return self._by_slot.get(slot, self._first)

    def moved(self, slot: int, address: Address) -> None:
        """A node has named another one."""
        self._by_slot[slot] = address

    def lost(self, slot: int, address: Address) -> None:
        """A node cannot be reached, or knows nobody; another may know who has taken its place."""
        others = sorted({self._first, *self._by_slot.values()} - {address})
        if others and self.of(slot) == address:
            self._by_slot[slot] = random.choice(others)  # noqa: S311  # no secret


class _RedirectedConnection(Connection):
    """A connection to the node that holds a slot, wherever that is by now."""

    def __init__(self, *, slot_map: SlotMap, slot: int, **options: Any) -> None:
        super().__init__(**options)
        self._slot_map = slot_map
        self._slot = slot

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect; called by redis-py before each use."""
        address = self._slot_map.of(self._slot)
        if (self.host, self.port) != address:
            await self.disconnect()
            self.host, self.port = address
        try:
            await super().connect_check_health(*args, **options)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):
            self._slot_map.lost(self._slot, address)
            raise
        if self._slot_map.is_closed:  # redis-py would let whoever comes late have a connection that nobody closes
            await self.disconnect()
            raise redis_errors.ConnectionError("closed")

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Write. redis-py would by asyncio.wait_for, which before Python 3.12 may lose a cancellation: work goes on."""
        timeout_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(*args, **options)
        except TimeoutError:
            raise redis_errors.TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = timeout_s

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer, and remember what it says about where slots are."""
        try:
            return await super().read_response(*args, **options)
        except redis_errors.MovedError as error:
            self._slot_map.moved(error.slot_id, Address(error.host or self.host, error.port))
            raise
        except redis_errors.ClusterDownError:
            self._slot_map.lost(self._slot, Address(self.host, self.port))
            raise
        except redis_errors.ReadOnlyError:  # a primary no more; the name it was found by may be another's by now
            self.mark_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py types it not
            raise
        except redis_errors.ResponseError as error:
            if str(error).startswith(_NOT_READY):
                raise NodeNotReadyError(str(error)) from None
            raise


class _RedirectedTlsConnection(_RedirectedConnection, SSLConnection):
    pass


def connection_pool(
    url: str, key: str, *, timeout_ms: int, max_connections: int | None = None, slot_map: SlotMap | None = None
) -> ConnectionPool:
    """Connections for a key and all that have its hash tag. Its user closes it."""
    options: dict[str, Any] = dict(parse_url(url))
    is_encrypted = issubclass(options.pop("connection_class", Connection), SSLConnection)
    return ConnectionPool(
        connection_class=_RedirectedTlsConnection if is_encrypted else _RedirectedConnection,
        max_connections=max_connections,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        # Once more and at once: a connection that has died while idle shows only when it is used, and a node that says
        # MOVED has done nothing. After a timeout never again: the caller has waited long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis_errors.ConnectionError, redis_errors.MovedError)),
        slot_map=slot_map or SlotMap(url),
        slot=key_slot(key.encode()),
        **options,
    )


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError for one that no client can be made of."""
    try:
        new_connection: Any = connection_pool(
            url, PARTITION_COUNT_KEY, timeout_ms=1
        ).make_connection  # redis-py types it not
        database = new_connection().db
    except (ValueError, TypeError):
        raise ValueError("must be `redis://host:port` or `rediss://...`, with options that redis-py has") from None
    path = urlsplit(url).path.strip("/")
    if path and path != str(database):
        raise ValueError("must end with the number of a database, or without any")
    return url


RedisUrl = Annotated[StoreUrl, AfterValidator(check_url)]
"""URL of Redis: give its field `repr=False`."""


class Node(NamedTuple):
    """A node, a client of it, and partitions that it holds."""

    address: Address
    client: Any  # a Redis; its commands are typed as sync or async at once
    numbers: list[int]


class PartitionCountError(RefusalError):
    """The data was made with another number of partitions. The text says what to do."""


class RedisVersionError(RefusalError):
    """Redis is older than what is asked of it. The text names it and its version."""


class RedisUrlError(RefusalError):
    """Redis answers, but not to what REDIS_URL says."""


def is_forbidden(error: redis_errors.RedisError) -> bool:
    """Whether a server does not let us run a command, or does not have it, as is the way of managed ones."""
    return isinstance(error, redis_errors.NoPermissionError) or str(error).startswith("unknown command")


def check_version(info: Mapping[str, Any], oldest: Version) -> None:
    """Look at what a server says of itself (INFO). One of unknown version is believed. Raises RedisVersionError.

    Valkey and others say beside their own version which Redis they can stand for.
    """
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version))
    if numbers and numbers < oldest:
        name = info.get("server_name", "redis").capitalize()
        needed = ".".join(map(str, oldest))
        raise RedisVersionError(f"REDIS_URL: {name} {version} is too old: Redis {needed} or later is needed, or Valkey")


async def _check_node(node: Node, oldest: Version) -> None:
    try:
        check_version(await node.client.info("server"), oldest)
    except redis_errors.RedisError as error:  # one that is down must not stop the others
        _log.warning("cannot see how old Redis is", host=node.address.host, error=type(error).__name__)


class PartitionedRedis:
    """The Redis of a deployment. Connects when it is used."""

    def __init__(self, url: str, count: int, *, timeout_ms: int, max_connections: int | None = None) -> None:
        """Take the Redis at a URL: any node of a cluster. `max_connections` is for each partition, 100 by default."""
        self._slot_map = SlotMap(url)
        self._slots = [key_slot(hash_tag(number).encode()) for number in range(count)]

        def client(key: str) -> Any:
            connections = connection_pool(
                url, key, timeout_ms=timeout_ms, max_connections=max_connections, slot_map=self._slot_map
            )
            return Redis.from_pool(connections)

        self._clients = [client(hash_tag(number)) for number in range(count)]
        self._count_client = client(PARTITION_COUNT_KEY)
        self.is_checked = False

    @property
    def numbers(self) -> range:
        """The numbers of the partitions."""
        return range(len(self._clients))

    def __getitem__(self, number: int) -> Any:
        """The client for the keys of a partition, and for no others."""
        return self._clients[number]

    def nodes(self, numbers: Iterable[int] | None = None) -> list[Node]:
        """The nodes that hold these partitions (all by default), as far as is known. A command may still be MOVED."""
        found: dict[Address, list[int]] = defaultdict(list)
        for number in self.numbers if numbers is None else numbers:
            found[self._slot_map.of(self._slots[number])].append(number)
        return [Node(address, self._clients[group[0]], group) for address, group in found.items()]

    async def check(self, oldest: Version = MIN_VERSION) -> None:
        """Wait until Redis answers, then make sure that its data was made with as many partitions, and of its version.

        The first to ask an empty Redis decides. Raises PartitionCountError, RedisVersionError and RedisUrlError.
        """
        mine = len(self._clients)
        while not self.is_checked:
            try:
                await self._count_client.set(PARTITION_COUNT_KEY, mine, nx=True)
                made_with = int(await self._count_client.get(PARTITION_COUNT_KEY))
            except redis_errors.AuthenticationError:
                raise RedisUrlError("REDIS_URL: Redis does not take its user and password") from None
            except TRANSIENT_ERRORS as error:
                _log.warning("Redis does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
                continue
            except redis_errors.NoPermissionError:
                raise RedisUrlError("REDIS_URL: its user may not do what is needed") from None
            except redis_errors.ResponseError as error:
                if not re.match("DB index|SELECT is not", str(error)):
                    raise
                raise RedisUrlError("REDIS_URL: Redis does not have the database of this number") from None
            if made_with != mine:
                raise PartitionCountError(
                    f"PARTITIONS is {mine}, but the data in this Redis was made with {made_with}, and what is there "
                    f"keeps its partition. Set PARTITIONS={made_with} for every service, or start with an empty Redis."
                )
            await self._find_nodes()
            for node in self.nodes():
                await _check_node(node, oldest)
            self.is_checked = True

    async def _find_nodes(self) -> None:
        """Ask for something in each partition, so that its node is known if it answers."""
        asking = (client.exists(hash_tag(number)) for number, client in enumerate(self._clients))
        await asyncio.gather(*asking, return_exceptions=True)

    async def is_ready(self) -> bool:
        """Whether the data is as it must be and a node answers within a second: one down must not stop the others."""
        for node in self.nodes() if self.is_checked else ():
            with suppress(redis_errors.RedisError, TimeoutError):
                async with asyncio.timeout(_PING_S):
                    return bool(await node.client.ping())
        return False

    async def aclose(self) -> None:
        """Close the connections, for good."""
        self._slot_map.is_closed = True
        await asyncio.gather(*(client.aclose() for client in (*self._clients, self._count_client)))
