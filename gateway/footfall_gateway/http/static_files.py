"""Turns files held in memory into answers: precompressed, with entity tags, readable from every origin."""

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from footfall_gateway.problem import PROBLEM_DETAILS, Problem

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of every page: nothing from elsewhere, nothing inline, in nobody's frame."""

DEMO_POLICY = f"{PAGE_POLICY}; script-src 'self' 'unsafe-eval'"
"""The demo shop stands for a customer's site, and the DSL's expressions are evaluated there."""

_DOCUMENTS = ("text/html", "image/svg+xml", "application/xml")
"""What a browser may show as a page, with what scripts there are in it."""

_PAGE_AGE_S = 60


@dataclass(frozen=True, slots=True)
class BrowserFile:
    """One file as it is sent: `body` or, to clients that accept gzip, `gzipped`."""

    body: bytes
    gzipped: bytes
    etag: str
    """Strong entity tag, in its quotes. The compressed form is another representation: send `gzip_etag` with it."""
    gzip_etag: str
    version: str
    """Changes with the content. A request with `?v=<version>` may be cached for good, any other only for a while."""
    content_type: str
    max_age_s: int = 3600
    """How long that while is, in seconds."""

    def cache_control(self, requested_version: str | None) -> str:
        """The Cache-Control of an answer, given the request's `v` parameter."""
        if requested_version == self.version:
            return "public, max-age=31536000, immutable"
        return f"public, max-age={self.max_age_s}"


class Files:
    """Answers GET and HEAD for the paths it knows; each path with what gives its present content."""

    def __init__(self, files: Mapping[str, Callable[[], BrowserFile]]) -> None:
        self._files = files

    def __contains__(self, path: str) -> bool:
        return path in self._files or f"{path}/" in self._files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path that is known."""
        present = self._files.get(scope["path"])
        # A folder's page names its neighbours relative to the folder.
        response = _answer(present(), scope) if present else RedirectResponse(f"{scope['path']}/", 308)
        await response(scope, receive, send)


def _answer(file: BrowserFile, scope: Scope) -> Response:
    if scope["method"] not in {"GET", "HEAD"}:
        return PROBLEM_DETAILS.response(Problem(405, "method not allowed here", allow="GET, HEAD"))
    asked = Headers(scope=scope)
    is_gzipped = "gzip" in asked.get("accept-encoding", "") and len(file.gzipped) < len(file.body)
    version = parse_qs(scope["query_string"].decode("latin-1")).get("v", [None])[0]
    headers = {
        "etag": file.gzip_etag if is_gzipped else file.etag,
        "cache-control": file.cache_control(version),
        "vary": "accept-encoding",
        # Pages of every site load the script and fetch the DSL; nothing here is anybody's secret.
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
    }
    if file.content_type.startswith(_DOCUMENTS):
        policy = DEMO_POLICY if scope["path"].startswith("/demo/") else PAGE_POLICY
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
    packed = package / name
    return packed if packed.is_dir() else package.parent / name


def browser_file(body: bytes, content_type: str, max_age_s: int = 3600) -> BrowserFile:
    """Content as it will be sent."""
    version = hashlib.sha256(body).hexdigest()[:16]
    return BrowserFile(
        body=body,
        gzipped=gzip.compress(body, compresslevel=9, mtime=0),
        etag=f'"{version}"',
        gzip_etag=f'"{version}-gzip"',
        version=version,
        content_type=content_type,
        max_age_s=max_age_s,
    )


def folder_files(prefix: str, root: Path) -> Iterator[tuple[str, BrowserFile]]:
    """Every file below a folder, by URL path; `index.html` is also the folder itself."""
    for file in sorted(root.rglob("*")):
        if not file.is_file():
            continue
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        found = browser_file(file.read_bytes(), content_type, _PAGE_AGE_S)
        path = f"{prefix}/{file.relative_to(root).as_posix()}"
        yield path, found
        if file.name == "index.html":
            yield path.removesuffix("index.html"), found
