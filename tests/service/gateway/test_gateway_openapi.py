"""The API description covers every route, and the running suite conforms to it.

FOOTFALL_FUZZ_EXAMPLES=50 runs a long form; `make test` runs a short one.
"""

import asyncio
import os
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.service.gateway.conftest import running_gateway
from tests.tools.suite import Suite

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


async def test_every_reference_leads_somewhere() -> None:
    async with running_gateway() as http:
        answer = await http.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', answer.text))
    assert references == set(schemas)


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
