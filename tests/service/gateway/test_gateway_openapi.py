"""The API description covers every route, and the running suite conforms to it.

FOOTFALL_FUZZ_EXAMPLES=50 runs a long form; `make test` runs a short one.
"""

import asyncio
import base64
import os
import re
import sys
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.gateway.conftest import running_gateway
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
EXAMPLES = os.environ.get("FOOTFALL_FUZZ_EXAMPLES", "4")
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_no_answer_is_a_server_error_or_undocumented(suite: Suite, tmp_path: Path) -> None:
    # /backend/data is the same operations again; the live stream has no end.
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS, "run", f"{suite.url}/openapi.json", "--auth", ":".join(suite.credentials), "--seed=1",
        "--exclude-path-regex=^/backend|/live$", f"--checks={','.join(CHECKS)}", f"--max-examples={EXAMPLES}",
        "--phases=fuzzing", "--suppress-health-check=filter_too_much", "--continue-on-failure", "--warnings=off",
        "--no-color",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-8_000:]


async def test_every_operation_is_described_for_both_prefixes_with_unique_ids() -> None:
    async with running_gateway() as http:
        described = (await http.get("/openapi.json")).json()
    assert described["openapi"] == "3.1.0"
    data = {path for path in described["paths"] if path.startswith("/server/data")}
    assert {path.replace("/server/", "/backend/") for path in data} <= set(described["paths"])
    operations = [one for methods in described["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"] for one in operations)


async def test_every_body_has_an_example_that_is_not_refused(suite: Suite) -> None:
    ids = {"contactId": "C-1001", "identityId": "dana@example.com", "valueId": "none", "visitId": str(uuid.uuid4())}
    async with suite.http() as http:
        described = (await http.get("/openapi.json")).json()["paths"]
        for path, methods in described.items():
            for method, operation in methods.items():
                if "requestBody" in operation and not path.startswith("/backend/"):
                    example = operation["requestBody"]["content"]["application/json"]["example"]
                    if "timestamp" in example:
                        example["timestamp"] = now_ms()
                    answer = await http.request(method, path.format(**ids), json=example)
                    # What an example names may not exist, and another test may have synchronized contacts later.
                    assert answer.is_success or answer.status_code in {404, 409}, (
                        operation["operationId"],
                        answer.text,
                    )
        for path in ("identities/dana@example.com/rename", "contacts/C-1001/merge", "contacts/C-1001"):
            answer = await http.delete(f"/api/v1/{path}")
            assert answer.is_success or answer.status_code in {404, 409}, answer.text


async def test_every_schema_property_and_parameter_is_described() -> None:
    async with running_gateway() as http:
        described = (await http.get("/openapi.json")).json()
    without = []
    for name, schema in described["components"]["schemas"].items():
        without += [name] if not schema.get("description") else []
        without += [f"{name}.{key}" for key, one in schema["properties"].items() if not one.get("description")]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            without += [f"{path} {one['name']}" for one in parameters if not one.get("description")]
    assert not without


async def test_every_reference_leads_somewhere() -> None:
    async with running_gateway() as http:
        answer = await http.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', answer.text))
    assert references == set(schemas)


async def test_a_generated_client_reads_a_visit(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, visit_id = f"eve.{uuid.uuid4()}@shop.example", uuid.uuid4()
    async with suite.http() as http:
        (tmp_path / "openapi.json").write_text((await http.get("/openapi.json")).text)
        sign_in = event("SignIn", str(visit_id), now_ms(), user)
        assert (await http.post("/beacon", json=sign_in)).status_code == 204
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")  # its formatters
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "openapi_python_client", "generate", "--path=openapi.json", "--config=config.yaml",
        "--meta=none", "--output-path=generated_client",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    monkeypatch.syspath_prepend(tmp_path)
    clients, models = import_module("generated_client"), import_module("generated_client.models")
    visits = import_module("generated_client.api.history.list_identity_visits")
    visitors = import_module("generated_client.api.footfall.list_visitors")

    def client(*credentials: str) -> Any:
        token = base64.b64encode(":".join(credentials).encode()).decode()
        return clients.AuthenticatedClient(suite.url, token, prefix="Basic", verify_ssl=suite.tls or True)

    async with client(*suite.credentials) as ours, client("nobody", "wrong") as strangers:

        async def read() -> Any:
            found = await visits.asyncio(user, client=ours, include_events=True, include_events_detail=True)
            assert isinstance(found, list)
            return found

        (visit,) = await eventually(read)
        assert isinstance(visit, models.Visit)
        assert (visit.visit_id, visit.end_date, visit.sessions) == (visit_id, 0, None)
        assert [(one.event_name, one.data["userID"]) for one in visit.events] == [("SignIn", user)]
        states = [models.ListVisitorsStateItem.RECOGNIZED, models.ListVisitorsStateItem.AUTHENTICATED]
        page = await visitors.asyncio(client=ours, state=states, identity_id=user)
        assert [one.visit_id for one in page.visitors] == [visit_id]
        refused = await visits.asyncio_detailed(user, client=strangers)
        assert (refused.status_code, refused.parsed.code) == (401, 401)


async def test_the_page_loads_nothing_from_other_hosts_and_has_no_inline_code() -> None:
    async with running_gateway() as http:
        page = await http.get("/docs", follow_redirects=True)
        assert page.url.path == "/docs/"
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert not re.search(r"https?://|<script>|<style| on\w+=| style=", page.text)
        loaded = [httpx.URL(page.url).join(name) for name in re.findall(r'(?:src|href)="([^"#:]+)"', page.text)]
        answers = [await http.get(url) for url in loaded if url.path != "/readyz"]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        root = await http.get("/")
        assert (root.status_code, root.headers["Location"]) == (307, "/docs/")
