"""footfall-client and the whole suite: each transition of a visitor comes once, while identity is killed."""

import asyncio
import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import VisitorState
from footfall_client import AsyncFootfall

from deploy.embedded import ROOT
from tests.tools.collecting import collecting
from tests.tools.eventually import eventually
from tests.tools.gate import Gate, gate_before
from tests.tools.suite import MUTUAL_TLS, Suite
from tests.tools.visits import event, live_state, now_ms

pytestmark = pytest.mark.skipif(MUTUAL_TLS, reason="the example has no certificate")

Who = list[str]
"""State and identity."""


@contextmanager
def running_script(target: str, output: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The example, until the end of the block; gives what it has printed so far."""
    script, environment = ROOT / "docs" / "examples" / "live_visitors.py", {**os.environ, "IDENTITY_TARGET": target}
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, script], env=environment, stdout=file)
    try:
        yield lambda: [json.loads(line) for line in output.read_text().rpartition("\n")[0].splitlines()]
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 3), *(pytest.param(seed, 10, marks=pytest.mark.long) for seed in (2, 3))]
)
async def test_each_transition_comes_once_while_identity_is_killed_and_connections_break(
    suite: Suite, tmp_path: Path, seed: int, rounds: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    visits = [str(uuid.uuid4()) for _ in range(6)]
    expected: dict[str, list[Who]] = {visit: [] for visit in visits}
    messages: list[pb.WatchVisitorsResponse] = []

    async with (
        suite.http() as http,
        gate_before(f"tcp://{suite.targets['identity']}") as gate,
        AsyncFootfall(identity=f"127.0.0.1:{gate.port}") as footfall,
    ):

        async def transition(visit: str) -> None:
            """Sign in as the next person, or out."""
            so_far = expected[visit]
            signs_out = bool(so_far) and so_far[-1][0] == "AUTHENTICATED"
            person = so_far[-1][1] if signs_out else f"{visit} {len(so_far)}"
            so_far.append(["RECOGNIZED" if signs_out else "AUTHENTICATED", person])
            one = event("SignOut" if signs_out else "SignIn", visit, now_ms(), None if signs_out else person)
            assert (await http.post("/beacon", json=one)).status_code == 204

        async def is_known() -> None:
            """Identity has all transitions: two that it learns of together are one change."""
            for visit in filter(expected.get, visits):
                state = await live_state(http, visit)
                assert [state["state"], state["identityId"]] == expected[visit][-1]

        def last(changes: dict[str, list[tuple[Who | None, Who | None]]]) -> list[Who | None]:
            return [changes[visit][-1][1] for visit in visits if expected[visit]]

        await asyncio.gather(*map(transition, visits[:3]))
        with running_script(f"127.0.0.1:{gate.port}", tmp_path / "output") as printed:
            watching = collecting(footfall.watch_visitors(pb.WatchVisitorsRequest(list_first=True)), messages)
            await eventually(lambda: {*visits[:3]} <= by_visit(printed()).keys() & by_visit(as_lines(messages)).keys())
            for number in range(rounds):
                disturb = DISTURBANCES[number] if number < len(DISTURBANCES) else chance.choice(DISTURBANCES)
                await disturb(suite, gate, lambda: asyncio.gather(*map(transition, visits)))
                await eventually(is_known, timeout=60)
            await eventually(lambda: last(by_visit(printed())) == [expected[visit][-1] for visit in visits])
            await eventually(lambda: last(by_visit(as_lines(messages))) == [expected[visit][-1] for visit in visits])
        await footfall.close()
        await asyncio.wait_for(watching, 30)

    for changes in (by_visit(printed()), by_visit(as_lines(messages))):
        for visit in visits:
            chain = changes[visit]
            assert [now for _, now in chain] == expected[visit]
            assert [before for before, _ in chain[1:]] == expected[visit][:-1]


Transitions = Callable[[], Awaitable[Any]]


async def kill_before(suite: Suite, _gate: Gate, transitions: Transitions) -> None:
    suite.kill("identity")
    await transitions()


async def kill_during(suite: Suite, _gate: Gate, transitions: Transitions) -> None:
    happening = asyncio.ensure_future(transitions())
    await asyncio.sleep(0)
    suite.kill("identity")
    await happening


async def cut_the_connections(_suite: Suite, gate: Gate, transitions: Transitions) -> None:
    await gate.close()
    await transitions()
    await gate.open()


async def kill_and_cut(suite: Suite, gate: Gate, transitions: Transitions) -> None:
    await gate.close()
    await kill_before(suite, gate, transitions)
    await gate.open()


DISTURBANCES = [kill_during, cut_the_connections, kill_before, kill_and_cut]


def as_lines(messages: list[pb.WatchVisitorsResponse]) -> list[dict[str, Any]]:
    """Messages as the example prints changes."""
    return [
        {
            "visit": one.visitor.visit_id,
            "before": [VisitorState.Name(one.previous_state), one.previous_identity_id],
            "now": [VisitorState.Name(one.visitor.state), one.visitor.identity_id],
            "isListed": [*one.changes] == [pb.VISITOR_CHANGE_LISTED],
        }
        for one in messages
    ]


def by_visit(lines: list[dict[str, Any]]) -> dict[str, list[tuple[Who | None, Who | None]]]:
    """The transitions of each visit, from state and identity to state and identity."""
    found: dict[str, list[tuple[Who | None, Who | None]]] = {}
    for line in lines:
        before, now = short(line["before"]), short(line["now"])
        if before != now or line.get("isListed"):
            found.setdefault(line["visit"], []).append((before, now))
    return found


def short(who: Who | None) -> Who | None:
    return who and [who[0].removeprefix("VISITOR_STATE_"), who[1]]
