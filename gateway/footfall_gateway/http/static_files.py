"""Static files, served from memory: precompressed, with entity tags, readable from every origin."""

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from footfall_gateway.problem import PROBLEM_DETAILS, Problem

_SOURCES = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'"

PAGE_POLICY = f"{_SOURCES}; frame-ancestors 'none'"
"""Content-Security-Policy of every page: no other origins, no inline scripts, no frames."""

DEMO_POLICY = f"{PAGE_POLICY}; script-src 'self' 'unsafe-eval'"
"""The demo shop is like a customer's site, where the DSL's expressions need `eval`."""

_DOCUMENTS = ("text/html", "image/svg+xml", "application/xml")
"""Types that a browser shows as a page and whose scripts it runs."""

_PAGE_AGE_S = 60


@dataclass(frozen=True, slots=True)
class BrowserFile:
    """One file as it is sent: `body` or, to clients that accept gzip, `gzipped`."""

    body: bytes
    gzipped: bytes
    version: str
    """Hash of the content. A response to `?v=<version>` may be cached permanently, any other for `max_age_s`."""
    content_type: str
    max_age_s: int = 3600

    def etag(self, *, is_gzipped: bool) -> str:
        """The strong entity tag, in quotes. The compressed form is another representation and has another tag."""
        return f'"{self.version}-gzip"' if is_gzipped else f'"{self.version}"'

    def cache_control(self, requested_version: str | None) -> str:
        """The Cache-Control of a response, given the request's `v` parameter."""
        if requested_version == self.version:
            return "public, max-age=31536000, immutable"
        return f"public, max-age={self.max_age_s}"


class Files:
    """An ASGI application that serves files. Those of `changing` are read by a function for each request.

    `views`: a folder whose page is served for addresses below the folder too, such as `/console/visit/123`. Its script
    shows what the address names. Pages of `embedders`, a list of origins, may show the compact view of a visit.
    """

    def __init__(
        self,
        files: Mapping[str, BrowserFile],
        changing: Mapping[str, Callable[[], BrowserFile]],
        views: str = "",
        embedders: Sequence[str] = (),
    ) -> None:
        self._compact_policy = f"{_SOURCES}; frame-ancestors {' '.join(embedders)}" if embedders else PAGE_POLICY
        self._files = files
        self._changing = changing
        self._views = views

    def __contains__(self, path: str) -> bool:
        return path in self._changing or path in self._files or f"{path}/" in self._files or self._is_view(path)

    def _is_view(self, path: str) -> bool:
        """Whether a path names a view. The name of a view has no dot, so that a missing file is not found."""
        name = path.removeprefix(self._views).partition("/")[0]
        return bool(self._views) and path.startswith(self._views) and bool(name) and "." not in name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request for a path that `in` has found."""
        path = scope["path"]
        file = self._changing[path]() if path in self._changing else self._files.get(path)
        if file is None and f"{path}/" not in self._files:
            file = self._files[self._views]
        # The page of a folder has links relative to the folder.
        response = _response(file, scope, self._policy(scope)) if file else RedirectResponse(f"{path}/", 308)
        await response(scope, receive, send)

    def _policy(self, scope: Scope) -> str:
        path = scope["path"]
        if path.startswith("/demo/"):
            return DEMO_POLICY
        is_compact = parse_qs(scope["query_string"].decode("latin-1")).get("view") == ["compact"]
        is_visit = bool(self._views) and path.startswith((f"{self._views}visit/", f"{self._views}visits/"))
        return self._compact_policy if is_visit and is_compact else PAGE_POLICY


def _response(file: BrowserFile, scope: Scope, policy: str) -> Response:
    if scope["method"] not in {"GET", "HEAD"}:
        return PROBLEM_DETAILS.response(Problem(405, "method not allowed; use GET or HEAD", allow="GET, HEAD"))
    asked = Headers(scope=scope)
    is_gzipped = "gzip" in asked.get("accept-encoding", "") and len(file.gzipped) < len(file.body)
    version = parse_qs(scope["query_string"].decode("latin-1")).get("v", [None])[0]
    headers = {
        "etag": file.etag(is_gzipped=is_gzipped),
        "cache-control": file.cache_control(version),
        "vary": "accept-encoding",
        # Pages of every site load the script and fetch the DSL. No file is confidential.
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
    }
    if file.content_type.startswith(_DOCUMENTS):
        headers |= {"content-security-policy": policy, "referrer-policy": "same-origin"}
    if headers["etag"] in (tag.strip() for tag in asked.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    headers["content-type"] = file.content_type
    if is_gzipped:
        headers["content-encoding"] = "gzip"
    return Response(file.gzipped if is_gzipped else file.body, headers=headers)


def asset_folder(name: str) -> Path:
    """The folder of static files `name`: inside the package in a wheel, beside it in the source tree."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def browser_file(body: bytes, content_type: str, max_age_s: int = 3600) -> BrowserFile:
    """A file made of its content."""
    gzipped = gzip.compress(body, compresslevel=9, mtime=0)
    return BrowserFile(body, gzipped, hashlib.sha256(body).hexdigest()[:16], content_type, max_age_s)


@cache
def _page(body: bytes, content_type: str) -> BrowserFile:
    return browser_file(body, content_type, _PAGE_AGE_S)


def folder_files(prefix: str, root: Path) -> Iterator[tuple[str, BrowserFile]]:
    """Every file in a folder and its subfolders, by URL path. `index.html` also has the path of its folder."""
    for file in sorted(root.rglob("*")):
        if not file.is_file():
            continue
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        found = _page(file.read_bytes(), content_type)
        path = f"{prefix}/{file.relative_to(root).as_posix()}"
        yield path, found
        if file.name == "index.html":
            yield path.removesuffix("index.html"), found
