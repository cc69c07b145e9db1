"""Files for browsers: the tracking script under all its names, the DSL and the pages, with their headers."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from footfall_gateway.browser.tracker_bundle import JQUERY_PATH
from footfall_gateway.http.static_files import asset_folder, folder_files
from footfall_gateway.settings import GatewaySettings
from footfall_servicekit.settings import load

from tests.service.gateway.conftest import running_gateway

ORIGINAL_SCRIPTS = [
    f"/{server}/resources/js/build/{name}"
    for server in ("server", "frontend")
    for name in (
        "GTC.min.js", "GTCJ.min.js", "GPE.min.js", "GPEJ.min.js", "GTC.js", "GTCJ.js", "GPE.js", "GPEJ.js",
    )
]  # fmt: skip
SCRIPTS = ["/tracker.js", *ORIGINAL_SCRIPTS]
DSLS = ["/server/resources/dsl/domain-model.xml", "/frontend/resources/dsl/domain-model.xml"]


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway() as client:
        client.auth = httpx.Auth()  # no credentials
        yield client


@pytest.mark.parametrize("paths", [SCRIPTS, DSLS])
async def test_a_file_has_many_names_with_any_query_and_one_content(http: httpx.AsyncClient, paths: list[str]) -> None:
    answers = [await http.get(path + query) for path in paths for query in ("", "?v=8.5.2&_=1767606012345", "?a/b.js")]
    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.content, answer.headers["Content-Type"]) for answer in answers}) == 1


async def test_the_script_ends_a_visit_when_the_services_do() -> None:
    async with running_gateway(visit_idle_minutes=7) as http:
        for path in SCRIPTS:
            assert "+'7'*60*1000" in (await http.get(path)).text


async def test_all_paths_are_also_served_under_a_path_prefix() -> None:
    async with running_gateway(path_prefixes="/a, /onlinechat,/a/b.c") as http:
        for prefix in ("", "/a", "/onlinechat", "/a/b.c"):
            for path in [*ORIGINAL_SCRIPTS, *DSLS, "/tracker-dsl.js?v=1", "/healthz"]:
                assert (await http.get(prefix + path)).status_code == 200, prefix + path
            nothing = await http.get(f"{prefix}/server/data/nothing")
            assert nothing.json() == {"code": 404, "message": "this path does not exist; /docs/ lists all paths"}
        for path in ("/onlinechat", "/onlinechatter/tracker.js", "/b/tracker.js", "/a/onlinechat/tracker.js"):
            assert (await http.get(path)).status_code == 404, path


@pytest.mark.parametrize("prefixes", ["a", "/a/", "/", "/a,", "/a b", "/a%2Fb", "/a\n"])
def test_a_malformed_path_prefix_is_refused(
    prefixes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_PATH_PREFIXES", prefixes)
    with pytest.raises(SystemExit):
        load(GatewaySettings)
    assert "GATEWAY_PATH_PREFIXES: must be paths like /onlinechat" in capsys.readouterr().err


@pytest.mark.parametrize("path", [*SCRIPTS, JQUERY_PATH, *DSLS, "/demo/", "/docs/", "/console/"])
async def test_a_file_is_public_compressed_and_has_an_entity_tag(http: httpx.AsyncClient, path: str) -> None:
    plain = await http.get(path, headers={"Accept-Encoding": "identity"})
    packed = await http.get(path, headers={"Accept-Encoding": "gzip"})
    assert (plain.status_code, packed.status_code) == (200, 200)
    assert plain.content == packed.content
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["ETag"] != packed.headers["ETag"]
    for answer in (plain, packed):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"].startswith("public, max-age=")
        encoding = answer.request.headers["Accept-Encoding"]
        again = await http.get(path, headers={"Accept-Encoding": encoding, "If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])


async def test_the_script_of_a_version_may_be_cached_permanently(http: httpx.AsyncClient) -> None:
    etag = (await http.get("/tracker.js", headers={"Accept-Encoding": "identity"})).headers["ETag"]
    kept = await http.get("/tracker.js", params={"v": etag.strip('"')})
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    other = await http.get("/tracker.js", params={"v": "other"})
    assert "immutable" not in other.headers["Cache-Control"]


async def test_head_has_the_headers_and_no_body_and_other_methods_are_refused(http: httpx.AsyncClient) -> None:
    head, get = await http.head("/tracker.js"), await http.get("/tracker.js")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]
    refused = await http.post("/tracker.js")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    ["/demo/../settings.py", "/demo/%2e%2e/shop.js", "/demo/nothing", "/console/nothing.js", "/consoles/x", "/%00"],
)
async def test_nothing_else_is_served(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(httpx.URL(str(http.base_url), raw_path=path.encode()))
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/console/live?site=a", "/console/visit/x", "/console/person/a%2Fb.c", "/console/x"])
async def test_an_address_of_a_view_is_the_page_of_the_console(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get("/console/")
    view = await http.get(httpx.URL(str(http.base_url), raw_path=path.encode()))
    assert (view.status_code, view.content) == (200, page.content)
    assert view.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]


async def test_every_page_refuses_frames_inline_scripts_and_other_hosts(http: httpx.AsyncClient) -> None:
    pages = asset_folder("console")
    folders = {"/docs": asset_folder("docs"), "/demo": pages / "demo", "/console": pages / "console"}
    files = [path for prefix, root in folders.items() for path, _ in folder_files(prefix, root)]
    for path in [*files, *SCRIPTS, *DSLS, "/tracker-dsl.js", JQUERY_PATH, "/openapi.json"]:
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        media_type = answer.headers["Content-Type"].partition(";")[0]
        if media_type in {"text/javascript", "text/css", "application/json"}:
            continue
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy, path
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert ("unsafe-eval" in policy) == path.startswith("/demo/")
        if media_type == "text/html":
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\s(on\w+|style)=|javascript:", answer.text), path


async def test_only_allowed_pages_may_embed_and_only_the_compact_view_of_a_visit() -> None:
    parents = "https://desk.example.com, https://*.crm.example"
    async with running_gateway(console_frame_ancestors=parents) as http:

        async def ancestors(path: str) -> str:
            policy = (await http.get(path)).headers["Content-Security-Policy"]
            return str(policy.partition("frame-ancestors ")[2].partition(";")[0])

        allowed = parents.replace(",", "")
        for path in ("/console/visits/x?view=compact", "/console/visit/x?view=compact"):
            assert await ancestors(path) == allowed
        for path in (
            "/console/visits/x", "/console/visits/x?view=compact&view=full", "/console/live?view=compact",
            "/console/?view=compact", "/demo/?view=compact", "/docs/?view=compact",
        ):  # fmt: skip
            assert await ancestors(path) == "'none'", path


async def test_api_responses_are_not_cached_not_sniffed_and_not_shown_as_a_page(http: httpx.AsyncClient) -> None:
    for path, methods in (await http.get("/openapi.json")).json()["paths"].items():
        for method in methods:
            answer = await http.request(method, re.sub(r"{\w+}", "x", path))
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
            assert answer.headers["Cache-Control"] == "no-store"
            if not path.startswith("/beacon"):
                assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
