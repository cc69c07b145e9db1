"""Health as an operator reads it: counts over restarts, and parts that do not answer."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Program, Suite, running_suite
from tests.tools.visits import event, now_ms


@pytest.fixture(scope="module")
def own_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of these tests alone, whose counts begin at 0."""
    with running_suite(tmp_path_factory.mktemp("health")) as suite:
        yield suite


async def health_of(suite: Suite) -> dict[str, Any]:
    # Each time a new connection: the gateway is killed meanwhile.
    async with suite.http(timeout=10) as http:
        answer = await http.get("/api/v1/health")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def until(suite: Suite, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Health, once it is as awaited."""

    async def found() -> dict[str, Any]:
        try:
            health = await health_of(suite)
        except httpx.HTTPError as error:
            raise AssertionError("the gateway does not answer") from error
        assert matches(health), health
        return health

    return await eventually(found, timeout=60)


def part(health: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [one for one in health["parts"] if one["name"] == name]
    return dict(found)


async def test_counts_survive_a_kill_and_name_an_example(own_suite: Suite) -> None:
    visit, old = str(uuid.uuid4()), now_ms() - 10 * 86_400_000
    async with own_suite.http() as http:
        pages = [event("PageEntered", visit, now_ms(), site="shop") for _ in range(3)]
        assert (await http.post("/beacon", json=pages)).status_code == 204
        assert (await http.post("/beacon", json=pages)).status_code == 204  # duplicates
        late = {"sentAt": now_ms(), "events": [event("PageEntered", visit, old, site="shop")]}
        refused = await http.post("/beacon", json=late)
        assert refused.status_code == 400
    health = await until(
        own_suite,
        lambda one: one["events"]["stored"] == 6 and one["events"]["duplicate"] == 3 and one["word"] == "All well",
    )
    [reason] = health["events"]["refused"]
    assert (reason["reason"], reason["count"], reason["example"]["site"]) == ("too_old", 1, "shop")
    assert reason["example"]["eventName"] == "PageEntered"
    assert visit not in str(health)

    own_suite.kill("gateway")
    health = await until(
        own_suite, lambda one: [each["before"] for each in one["starts"] if each["part"] == "gateway"] == ["died", None]
    )
    assert health["events"]["stored"] == 6
    assert health["events"]["refused"][0]["example"]["message"] == reason["example"]["message"]
    async with own_suite.http() as http:
        assert (await http.post("/beacon", json=event("PageEntered", visit, now_ms()))).status_code == 204
    await until(own_suite, lambda one: one["events"]["stored"] == 7)


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "named"),
    [("history", "history"), ("identity", "identity"), ("mongo", "mongodb"), ("valkey", "redis")],
)
async def test_a_part_that_hangs_is_named_within_20_seconds(own_suite: Suite, program: Program, named: str) -> None:
    await until(own_suite, lambda one: not one["problems"])
    with own_suite.frozen(program):

        async def is_named() -> dict[str, Any]:
            health = await health_of(own_suite)
            assert part(health, named)["state"] == "failed"
            return health

        health = await eventually(is_named, timeout=20)
        assert named in {problem["part"] for problem in health["problems"]}
        assert part(health, named)["queries"] != "as usual"
        assert health["word"] != "All well"
        assert (health["events"] is None) == (named == "redis")
    await until(own_suite, lambda one: not one["problems"])
