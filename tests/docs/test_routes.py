"""The pages name only operations and files that a running gateway has."""

import re
from collections.abc import Collection, Iterator, Mapping

import httpx

from docs.pages import Page, pages
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
PATH = re.compile(r"/[\w./{}*:-]*")


def test_routes_exist(suite: Suite) -> None:
    with suite.blocking_http() as http:
        described = http.get("/openapi.json").json()["paths"]
        assert [path for path in SCRIPTS if not is_route(path, described, http)] == []
        wrong = [f"{page.name}: {path}" for page in pages() for path in unknown(page, described, http)]
    assert wrong == []


def unknown(page: Page, described: Mapping[str, Collection[str]], http: httpx.Client) -> Iterator[str]:
    """The operations and paths of a page that the gateway does not have."""
    known = {*described, *SCRIPTS, *OTHER_PATHS}
    for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[\w./{}:-]+)", "\n".join(page.code)):
        if path not in OTHER_PATHS and method.lower() not in described.get(path, ()):
            yield f"{method} {path}"
    for span in page.code:
        if PATH.fullmatch(span) and not is_route(span, known, http):
            yield span


def is_route(path: str, known: Collection[str], http: httpx.Client) -> bool:
    """Whether a path is an operation, a file, or a folder of these."""
    if path in known or any(each.startswith(f"{path.rstrip('*').rstrip('/')}/") for each in known):
        return True
    return http.get(path.rstrip("*"), follow_redirects=True).status_code != httpx.codes.NOT_FOUND
