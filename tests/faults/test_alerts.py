"""A real Prometheus reads a real suite: a healthy one fires no alert, and what breaks makes its alerts true.

The expressions are those of deploy/monitoring/alerts.yaml, without the time that they must last (`for`).
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from redis.asyncio import Redis

from deploy.embedded import ROOT
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

ALERTS: Final = ROOT / "deploy" / "monitoring" / "alerts.yaml"
RULES: Final[dict[str, str]] = {
    rule["alert"]: rule["expr"] for rule in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
}
LOG: Final = "log:{p00}"
LOG_BYTES: Final = 1_048_576
NOTICED_S: Final = 200
"""Until Prometheus has seen a fault that must last a minute, on a busy machine."""


class Watched:
    """A suite, and the Prometheus that reads it."""

    def __init__(self, suite: Suite, url: str) -> None:
        self.suite = suite
        self._url = url

    async def results(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        async with httpx.AsyncClient(base_url=self._url) as http:
            answer = (await http.get("/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """The alerts whose expression is true."""
        return {name for name, expression in RULES.items() if await self.results(expression)}

    async def beacon(self, name: str = "PageEntered", **data: str) -> int:
        """Send a beacon of a new visit; return the status."""
        async with self.suite.http() as http:
            body = event(name, str(uuid.uuid4()), now_ms()) | ({"data": data} if data else {})
            return (await http.post("/beacon", json=body)).status_code


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    assert shutil.which("prometheus"), "deploy/install-prometheus installs it"
    folder = tmp_path_factory.mktemp("prometheus")
    collector, identity, history, own = free_ports(4)
    settings = {
        "COLLECTOR_METRICS_PORT": str(collector),
        "IDENTITY_METRICS_PORT": str(identity),
        "HISTORY_METRICS_PORT": str(history),
        "COLLECTOR_LOG_MAX_BYTES": str(LOG_BYTES),
    }
    with running_suite(tmp_path_factory.mktemp("watched"), settings, on_cluster=False, is_mutual_tls=False) as suite:
        gateway = suite.url.removeprefix("http://")
        targets = [gateway, *(f"127.0.0.1:{port}" for port in (collector, identity, history))]
        scrape = {"job_name": "footfall", "static_configs": [{"targets": targets}]}
        config = {"global": {"scrape_interval": "1s"}, "rule_files": [str(ALERTS)], "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{own}"], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield Watched(suite, f"http://127.0.0.1:{own}")
        finally:
            process.terminate()
            process.wait(30)


def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(RULES)} rules found" in checked.stdout


async def test_a_healthy_suite_fires_no_alert_and_every_process_is_seen(watched: Watched) -> None:
    async def seen() -> None:
        found = await watched.results("footfall_build_info")
        assert {one["metric"]["service"] for one in found} == {*watched.suite.targets, "gateway"}
        assert len(await watched.results("footfall_process_ready == 1")) == len(found)
        assert await watched.results("footfall_process_resident_memory_bytes > 0")

    await eventually(seen, timeout=30)
    assert await watched.beacon() == 204

    async def quiet() -> None:
        assert await watched.results("footfall_stream_lag_seconds == 0")
        assert await watched.firing() == set()

    await eventually(quiet, timeout=30)


Fault = Callable[[Watched], AbstractAsyncContextManager[Callable[[], Any]]]
"""Breaks something, and repairs it at the end. Gives what its users do meanwhile."""


@asynccontextmanager
async def history_is_stopped_and_redis_restarts(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    """Then identity cannot build live state again, nothing reads events, and the log fills."""
    suite = watched.suite
    assert await watched.beacon() == 204
    suite.stop("history")
    try:
        suite.kill("valkey")
        yield lambda: watched.beacon("Note", text="x" * 30_000)
    finally:
        suite.start("history")


@asynccontextmanager
async def redis_is_read_only(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    async with Redis.from_url(watched.suite.redis_url) as redis:
        await redis.config_set("min-replicas-to-write", 1)
        try:
            yield watched.beacon
        finally:
            await redis.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def mongodb_is_stopped(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    async def ask() -> None:
        async with watched.suite.http() as http:
            assert (await http.get(f"/server/data/visits/{uuid.uuid4()}/events")).status_code in {404, 503, 504}

    watched.suite.stop("mongo")
    try:
        yield ask
    finally:
        watched.suite.start("mongo")


@asynccontextmanager
async def an_entry_of_the_log_is_no_batch(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    async with Redis.from_url(watched.suite.redis_url) as redis:
        await redis.xadd(LOG, {"b": b"\xff\xff"})
        yield watched.beacon


@asynccontextmanager
async def entries_are_deleted_before_they_are_handled(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    watched.suite.stop("mongo")
    try:
        async with Redis.from_url(watched.suite.redis_url) as redis:
            assert await watched.beacon() == 204

            async def read() -> list[bytes]:
                found = await redis.xpending_range(LOG, "history", "-", "+", 10)
                assert found
                return [one["message_id"] for one in found]

            await redis.xdel(LOG, *await eventually(read, timeout=30))
    finally:
        watched.suite.start("mongo")
    yield watched.beacon


@asynccontextmanager
async def redis_is_restored_from_a_backup(watched: Watched) -> AsyncIterator[Callable[[], Any]]:
    assert await watched.beacon() == 204
    backup = watched.suite.snapshot("valkey")
    async with Redis.from_url(watched.suite.redis_url) as redis:
        marks = await redis.hgetall("checkpoint:{p00}:history")

        async def later() -> None:
            assert await watched.beacon() == 204
            assert await redis.hgetall("checkpoint:{p00}:history") != marks

        await eventually(later, timeout=30)
    watched.suite.restore("valkey", backup)
    yield watched.beacon


@pytest.mark.parametrize(
    ("fault", "alerts"),
    [
        (an_entry_of_the_log_is_no_batch, {"FootfallDeadLetters"}),
        (mongodb_is_stopped, {"FootfallNotReady", "FootfallQueriesFail"}),
        (redis_is_read_only, {"FootfallNotReady", "FootfallBeaconsRefused", "FootfallAppendsFail"}),
        (entries_are_deleted_before_they_are_handled, {"FootfallEntriesLost"}),
        (redis_is_restored_from_a_backup, {"FootfallStoreWentBack"}),
        (
            history_is_stopped_and_redis_restarts,
            {"FootfallDown", "FootfallReadersLag", "FootfallLogFills", "FootfallRebuilding"},
        ),
    ],
)
async def test_what_breaks_makes_its_alerts_true(watched: Watched, fault: Fault, alerts: set[str]) -> None:
    async with fault(watched) as used:

        async def noticed() -> None:
            await used()
            assert alerts - await watched.firing() == set()

        await eventually(noticed, timeout=NOTICED_S, every=0.5)

    async def serves() -> bool:
        return await watched.beacon() == 204 and watched.suite.is_ready()

    await eventually(serves, timeout=90)
