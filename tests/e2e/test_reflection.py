"""The gRPC API as a stranger meets it: `buf curl` lists and calls it through reflection alone."""

import asyncio
import json
import sys
import uuid
from pathlib import Path

import pytest
from cryptography import x509

from tests.tools.suite import Suite
from tests.tools.visits import now_ms

BUF = Path(sys.executable).parent / "buf"


async def buf_curl(suite: Suite, service: str, method: str, *arguments: str) -> str:
    """What `buf curl` prints; fails the test when it fails."""
    address, transport = f"http://{suite.targets[service]}{method}", ["--http2-prior-knowledge"]
    if suite.authority:
        certificate, key = suite.authority.issue("client-curl", [x509.DNSName("gateway")])
        address = address.replace("http:", "https:")
        transport = ["--cacert", str(suite.authority.file), "--cert", str(certificate), "--key", str(key)]
    process = await asyncio.create_subprocess_exec(
        BUF, "curl", "--protocol", "grpc", *transport, address, *arguments,
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
    assert full_name in (await buf_curl(suite, service, "", "--list-methods"))
    for name in ("", full_name):
        request = json.dumps({"service": name})
        health = await buf_curl(suite, service, "/grpc.health.v1.Health/Check", "-d", request)
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
    batch = json.dumps({"batch": {"contexts": [{}], "events": [sign_in]}})
    collected = await buf_curl(suite, "collector", "/footfall.collector.v1.CollectorService/Collect", "-d", batch)
    assert json.loads(collected) == {"storedCount": 1}
    visit = json.dumps({"visitId": visit_id})
    found = await buf_curl(suite, "identity", "/footfall.identity.v1.IdentityService/GetVisitor", "-d", visit)
    visitor = json.loads(found)["visitor"]
    assert (visitor["state"], visitor["identityId"]) == ("VISITOR_STATE_AUTHENTICATED", "dana")
