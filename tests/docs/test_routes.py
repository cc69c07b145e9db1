"""The pages name only operations and files that a running gateway has."""

import re
from collections.abc import Collection

import httpx

from docs.pages import pages
from tests.tools.suite import Suite

OTHER_PATHS = {
    "/footfall-token",
    "/loans",
    "/loans/apply",
    "/onlinechat",
    "/onlinechat/server/...",
    "/proc",
    "/server/data/gateway/engage",
    "/server/data/notification/notify/{visitID}",
}
"""Paths in code spans that are not routes of the gateway: examples, and what only GWE has."""
SCRIPTS = {"/server/resources/js/build/GPE.min.js", "/frontend/resources/js/build/GPE.min.js"}
"""Files whose folders the pages name."""
ROUTE = re.compile(r"/[\w./{}*-]*")


def test_routes_exist(suite: Suite) -> None:
    described = httpx.get(f"{suite.url}/openapi.json").json()["paths"]
    assert [path for path in SCRIPTS if not is_route(suite.url, path, described)] == []
    known = {*described, *SCRIPTS, *OTHER_PATHS}
    operations = {(method.upper(), path) for path, methods in described.items() for method in methods}
    wrong = []
    for page in pages():
        named = re.findall(r"\b(GET|POST|PUT|DELETE) (/[\w./{}-]+)", "\n".join(page.code))
        missing = [path for method, path in named if path not in OTHER_PATHS and (method, path) not in operations]
        missing += [span for span in page.code if ROUTE.fullmatch(span) and not is_route(suite.url, span, known)]
        wrong += [f"{page.name}: {path}" for path in missing]
    assert wrong == []


def is_route(url: str, path: str, described: Collection[str]) -> bool:
    """Whether a path is an operation, a file, or a folder of these."""
    if path in described or any(each.startswith(f"{path.rstrip('*').rstrip('/')}/") for each in described):
        return True
    return httpx.get(url + path.rstrip("*"), follow_redirects=True).status_code != httpx.codes.NOT_FOUND
