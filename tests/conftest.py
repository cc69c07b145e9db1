"""What every test may ask for: real stores on free ports, and names of its own in them instead of cleaning up.

REDIS_URL and MONGO_URL in the environment name other servers to test against (a real mongod, a Redis). They must be
there for tests alone: databases of that Redis are emptied.
"""

import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from footfall_servicekit import logs
from hypothesis import settings
from pymongo import MongoClient
from redis.asyncio import Redis

from deploy.mongo_indexes import make_indexes
from tests.tools.stores import running_mongo, running_valkey
from tests.tools.suite import Suite, running_suite

# A busy machine must not fail tests that read a link right after they have written its contact.
os.environ.setdefault("IDENTITY_LINK_WAIT_MS", "10000")
REDIS_DATABASES = 4096
SLOW_S = 0.25
"""What summing ten million numbers takes on a slow machine, in seconds of its processor."""
TRANSITIONS_KEPT = 6
PAGES_KEPT = 2
LEAVE_MS = 1_000
"""By the bounded suite: so few that random visits have more now and then."""
CATEGORIES = """
[[category]]
name = "loans"
tags = [{ in = "url", text = "//bank.example/*loans" }]

[[category]]
name = "cars"
tags = [{ in = "title", regex = '(?i)^bank .*\\bcars?\\b' }, { in = "data.sku", text = "BANK-*-CAR" }]
"""
"""Those of the suite; no test but that of categories has such pages and events."""
POLICY = """
version = "tests"
staff_networks = ["198.51.100.0/24"]

[[site]]
name = "agent-desk"
staff = true
"""
"""That of the suites; only some tests have visits of staff."""

_database_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Let a run that is terminated end its servers, as one that is interrupted does; time no example of Hypothesis."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # How long an example takes says more about what else the machine does.
    settings.register_profile("shared machine", deadline=None)
    settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long files first: of many short ones at the end, all processes of `make test` have their share."""
    items.sort(key=lambda item: item.path.parent.name not in {"browser", "docs", "e2e", "faults", "upgrade"})


def pytest_xdist_auto_num_workers() -> int:
    """Four processes keep two processors busy. On a slow machine they would exceed time limits: there are three."""
    started = time.process_time()
    sum(range(10_000_000))
    return 4 if time.process_time() - started < SLOW_S else 3


@pytest.fixture(autouse=True)
def _logging_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no command that a test runs in this process configure its logging: structlog keeps loggers as first used."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)


@pytest.fixture(autouse=True)
def _ready_suites(request: pytest.FixtureRequest) -> None:
    """Begin when all serves again that another test has stopped."""
    for name in {"suite", "bounded_suite"} & {*request.fixturenames}:
        while not request.getfixturevalue(name).is_ready():
            time.sleep(0.05)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey (or Redis) server with the settings of deploy/valkey.conf."""
    if url := os.environ.get("REDIS_URL"):
        yield url.rstrip("/")
        return
    with running_valkey(tmp_path_factory.mktemp("valkey"), "--databases", str(REDIS_DATABASES)) as url:
        yield url


@pytest.fixture
async def redis_database_url(redis_url: str) -> str:
    """An empty database of that server for one test alone: log streams and their groups have fixed names."""
    async with Redis.from_url(redis_url) as redis:
        databases = int((await redis.config_get("databases"))["databases"] or 1)
    url = f"{redis_url}/{next(_database_numbers) % databases}"
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
    return url


@pytest.fixture
async def redis(redis_database_url: str) -> AsyncIterator[Any]:
    """A client of that database. Its commands are typed as sync or async together."""
    async with Redis.from_url(redis_database_url) as redis:
        yield redis


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MongoDB-wire server."""
    if url := os.environ.get("MONGO_URL"):
        yield url
        return
    with running_mongo(tmp_path_factory.mktemp("mongo")) as url:
        yield url


@pytest.fixture(scope="session")
def mongo_client(mongo_url: str) -> "Iterator[MongoClient[Any]]":
    """A client of that server."""
    with MongoClient[Any](mongo_url) as client:
        yield client


@pytest.fixture
def mongo_database(mongo_client: "MongoClient[Any]") -> str:
    """The name of a database that no other test uses."""
    name = f"test_{uuid.uuid4().hex}"
    if "MONGO_URL" not in os.environ:
        make_indexes(mongo_client[name])
    return name


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """The whole suite as `make run` starts it, on stores and ports of its own. Who stops a program starts it again.

    It is there below `/onlinechat` as well, and has CATEGORIES and POLICY.
    """
    folder = tmp_path_factory.mktemp("suite")
    categories, policy = folder / "categories.toml", folder / "policy.toml"
    categories.write_text(CATEGORIES)
    policy.write_text(POLICY)
    settings = {"GATEWAY_PATH_PREFIXES": "/onlinechat", "FAILURE_LOG_INTERVAL_S": "3"}
    settings |= {"CATEGORIES_FILE": str(categories), "IDENTITY_POLICY_FILE": str(policy)}
    with running_suite(tmp_path_factory.mktemp("suite"), settings) as suite:
        yield suite


@pytest.fixture(scope="module")
def bounded_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Such a suite that keeps few transitions and pages of a visit, and notices soon that a visitor has left."""
    (policy := tmp_path_factory.mktemp("bounded") / "policy.toml").write_text(POLICY)
    bounds = {
        "IDENTITY_POLICY_FILE": str(policy),
        "MAX_TRANSITIONS_PER_VISIT": str(TRANSITIONS_KEPT),
        "IDENTITY_MAX_PAGES_PER_VISIT": str(PAGES_KEPT),
        "IDENTITY_LEAVE_AFTER_MS": str(LEAVE_MS),
    }
    with running_suite(tmp_path_factory.mktemp("bounded"), bounds) as suite:
        yield suite
