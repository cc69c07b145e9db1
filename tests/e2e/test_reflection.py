"""The gRPC API as a stranger meets it: `buf curl` lists and calls it through reflection alone."""

import asyncio
import json
import sys
import uuid
from pathlib import Path

import pytest

from tests.tools.suite import Suite
from tests.tools.visits import now_ms

BUF = Path(sys.executable).parent / "buf"


async def buf_curl(*arguments: str) -> str:
    """What `buf curl` prints; fails the test when it fails."""
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize(
    ("service", "full_name"),
    [
        ("collector", "footfall.collector.v1.CollectorService"),
        ("identity", "footfall.identity.v1.IdentityService"),
        ("history", "footfall.history.v1.HistoryService"),
    ],
)
async def test_each_service_lists_itself_and_is_serving(suite: Suite, service: str, full_name: str) -> None:
    address = f"http://{suite.targets[service]}"
    assert full_name in (await buf_curl(address, "--list-methods"))
    for name in ("", full_name):
        health = await buf_curl(f"{address}/grpc.health.v1.Health/Check", "-d", json.dumps({"service": name}))
        assert json.loads(health) == {"status": "SERVING"}


async def test_a_visit_goes_in_and_comes_out_by_grpc_alone(suite: Suite) -> None:
    visit_id = str(uuid.uuid4())
    sign_in = {
        "eventId": str(uuid.uuid4()),
        "eventName": "SignIn",
        "visitId": visit_id,
        "timestampMs": now_ms(),
        "dataJson": "eyJ1c2VySUQiOiJkYW5hIn0=",
    }
    collect = f"http://{suite.targets['collector']}/footfall.collector.v1.CollectorService/Collect"
    collected = await buf_curl(collect, "-d", json.dumps({"batch": {"contexts": [{}], "events": [sign_in]}}))
    assert json.loads(collected) == {"storedCount": 1}
    get_visitor = f"http://{suite.targets['identity']}/footfall.identity.v1.IdentityService/GetVisitor"
    visitor = json.loads(await buf_curl(get_visitor, "-d", json.dumps({"visitId": visit_id})))["visitor"]
    assert (visitor["state"], visitor["identityId"]) == ("VISITOR_STATE_AUTHENTICATED", "dana")
