"""A real Prometheus reads a real suite: a healthy one fires no alert, and what breaks makes its alerts true.

The expressions are those of deploy/monitoring/alerts.yaml, without the time that they must last (`for`). What takes
hours or days is shown to promtool as invented series.
"""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

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
            try:
                answer = (await http.get("/api/v1/query", params={"query": expression})).json()
            except httpx.TransportError as error:
                raise AssertionError("Prometheus does not answer yet") from error
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """The alerts whose expression is true."""
        return {name for name, expression in RULES.items() if await self.results(expression)}

    async def sees_every_process(self) -> None:
        """Prometheus has read each process, so that it notices how counters grow from now on."""
        found = await self.results("footfall_build_info")
        assert {one["metric"]["service"] for one in found} == {*self.suite.targets, "gateway"}

    async def beacon(self, name: str = "PageEntered", **data: str) -> int:
        """Send a beacon of a new visit; return the status."""
        async with self.suite.http() as http:
            body = event(name, str(uuid.uuid4()), now_ms()) | ({"data": data} if data else {})
            return (await http.post("/beacon", json=body)).status_code


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
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
            process = await asyncio.create_subprocess_exec(
                *command, f"--web.listen-address=127.0.0.1:{own}", stdout=output, stderr=asyncio.subprocess.STDOUT
            )
        try:
            watched = Watched(suite, f"http://127.0.0.1:{own}")
            await eventually(watched.sees_every_process, timeout=60)
            yield watched
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


class Invented(NamedTuple):
    """Series in the notation of promtool, and when the expression of an alert is false and true for them."""

    alert: str
    interval: str
    series: dict[str, str]
    false_at: str
    true_at: str


_VISITS: Final = "footfall_history_scorecard_visits"
_LINKS: Final = "footfall_history_scorecard_links"
_STORE: Final = 'footfall_store_seconds_bucket{store="redis",command="GET"'
_OLDEST: Final = "footfall_identity_pending_relinks_oldest_timestamp_seconds"
INVENTED: Final = [
    Invented(
        "FootfallFaults", "1m", {'footfall_rpc_calls_total{method="m",code="INTERNAL"}': "0x20 1x20"}, "15m", "25m"
    ),
    Invented("FootfallFaults", "1m", {'footfall_background_failures_total{work="w"}': "_x20 1x20"}, "15m", "25m"),
    Invented(
        "FootfallStoreSlow",
        "1m",
        {
            f'{_STORE},le="1"}}': "0+100x20 2000x20",
            f'{_STORE},le="2.5"}}': "0+100x40",
            f'{_STORE},le="+Inf"}}': "0+100x40",
        },
        "15m",
        "30m",
    ),
    Invented("FootfallGaps", "1m", {'footfall_stream_gaps{group="history"}': "0x20 1x20"}, "15m", "25m"),
    Invented("FootfallSlowVisits", "1m", {"footfall_history_slow_visits": "0x20 3x40"}, "25m", "40m"),
    Invented("FootfallLinksLate", "1m", {_OLDEST: "0x20 1200x60"}, "30m", "60m"),
    Invented("FootfallOutletLags", "1m", {'footfall_relay_lag_seconds{outlet="o"}': "200x20 400x20"}, "15m", "25m"),
    Invented("FootfallOutletLoses", "1m", {'footfall_relay_lost_entries_total{outlet="o"}': "0x20 1x20"}, "15m", "25m"),
    Invented(
        "FootfallOutletLoses",
        "1m",
        {'footfall_relay_dropped_dead_letters_total{outlet="o"}': "0x20 1x20"},
        "15m",
        "25m",
    ),
    Invented("FootfallOutletDeadLetters", "1m", {'footfall_relay_dead_letters{outlet="o"}': "0x20 1x20"}, "15m", "25m"),
    Invented("FootfallIndexMissing", "1m", {'footfall_store_indexes{state="missing"}': "0x20 1x20"}, "15m", "25m"),
    Invented(
        "FootfallIdentificationFalls",
        "1h",
        {f'{_VISITS}{{site="shop",state="AUTHENTICATED"}}': "1000x200 400x50"},
        "190h",
        "210h",
    ),
    Invented(
        "FootfallIdentificationFalls",
        "1h",
        {
            f'{_VISITS}{{site="shop",state="ANONYMOUS"}}': "100x200 400x50",
            f'{_VISITS}{{site="shop",state="AUTHENTICATED"}}': "900x250",
        },
        "190h",
        "210h",
    ),
    Invented(
        "FootfallLinksFall",
        "1h",
        {
            f'{_LINKS}{{site="shop",links="all"}}': "1000x250",
            f'{_LINKS}{{site="shop",links="linked"}}': "600x200 200x50",
        },
        "190h",
        "210h",
    ),
    Invented(
        "FootfallUserIdsIgnored",
        "1m",
        {
            'footfall_history_scorecard_ignored_visits{site="shop",reason="placeholder"}': "0x20 20x20",
            f'{_VISITS}{{site="shop",state="ANONYMOUS"}}': "1000x40",
        },
        "15m",
        "25m",
    ),
    Invented(
        "FootfallScorecardsLate",
        "1h",
        {'footfall_history_scorecard_day_timestamp_seconds{site="shop"}': "0x200"},
        "48h",
        "80h",
    ),
]


@pytest.mark.parametrize("invented", INVENTED, ids=lambda each: each.alert)
def test_what_takes_long_makes_its_alert_true(invented: Invented, tmp_path: Path) -> None:
    expression = f"count({RULES[invented.alert]})"
    test = {
        "interval": invented.interval,
        "input_series": [{"series": name, "values": values} for name, values in invented.series.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": invented.false_at, "exp_samples": []},
            {"expr": expression, "eval_time": invented.true_at, "exp_samples": [{"labels": "{}", "value": 1}]},
        ],
    }
    (file := tmp_path / "test.yml").write_text(json.dumps({"evaluation_interval": invented.interval, "tests": [test]}))
    checked = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(RULES)} rules found" in checked.stdout


async def test_a_healthy_suite_fires_no_alert(watched: Watched) -> None:
    assert await watched.beacon() == 204

    async def quiet() -> None:
        assert len(await watched.results("footfall_process_ready == 1")) == 4
        assert len(await watched.results("footfall_process_resident_memory_bytes > 0")) == 4
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

            async def read() -> list[Any]:
                found = await redis.xpending_range(LOG, "history", "-", "+", 10)
                assert found
                return [one["message_id"] for one in found]

            await redis.xdel(LOG, *await eventually(read, timeout=30))
        yield watched.beacon  # history reads them again when it has waited in vain for MongoDB
    finally:
        watched.suite.start("mongo")


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


FAULTS: Final[list[tuple[Fault, set[str]]]] = [
    (an_entry_of_the_log_is_no_batch, {"FootfallDeadLetters"}),
    (mongodb_is_stopped, {"FootfallNotReady", "FootfallQueriesFail"}),
    (redis_is_read_only, {"FootfallNotReady", "FootfallBeaconsRefused", "FootfallAppendsFail"}),
    (entries_are_deleted_before_they_are_handled, {"FootfallEntriesLost"}),
    (redis_is_restored_from_a_backup, {"FootfallStoreWentBack"}),
    (
        history_is_stopped_and_redis_restarts,
        {"FootfallDown", "FootfallReadersLag", "FootfallLogFills", "FootfallRebuilding"},
    ),
]


def test_every_rule_is_seen_to_become_true() -> None:
    assert {each.alert for each in INVENTED}.union(*(alerts for _, alerts in FAULTS)) == {*RULES}


@pytest.mark.parametrize(("fault", "alerts"), FAULTS)
async def test_what_breaks_makes_its_alerts_true(watched: Watched, fault: Fault, alerts: set[str]) -> None:
    async with fault(watched) as used:

        async def noticed() -> None:
            await used()
            assert alerts - await watched.firing() == set()

        await eventually(noticed, timeout=NOTICED_S, every=0.5)

    async def serves() -> bool:
        return await watched.beacon() == 204 and watched.suite.is_ready()

    await eventually(serves, timeout=90)
