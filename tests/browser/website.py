"""Pages of a customer's website, by path, on a port and so an origin of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SNIPPET = """
  var _gt = _gt || [];
  _gt.push(['config', Object.assign({{ httpEndpoint: '{gateway}', httpsEndpoint: '{gateway}' }}, {config})]);
  (function (id) {{
    if (document.getElementById(id)) return;
    var s = document.createElement('script');
    s.id = id;
    s.src = '{gateway}/tracker.js';
    (document.head || document.body).appendChild(s);
  }})('_gt');
"""


def page(
    gateway: str, *, title: str = "Shop", config: str = "{}", script: str = "", body: str = "<h1>Shop</h1>"
) -> str:
    """A page that carries the tracker; `config` and `script` are JavaScript."""
    snippet = SNIPPET.format(gateway=gateway, config=config)
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><script>{snippet}{script}</script>{body}"


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """Handle every connection to a free port, which is given; those still open at the end are closed.

    The tasks are kept: no other reference to a task may exist while it waits.
    """
    tasks: set[asyncio.Task[None] | None] = set()

    async def own(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    async with await asyncio.start_server(own, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for task in filter(None, {*tasks}):
            task.cancel()
            await asyncio.wait((task,))


@asynccontextmanager
async def running_website(pages: Mapping[str, str], **headers: str) -> AsyncIterator[str]:
    """Serve the pages; gives the origin. Unknown paths have the page of `*`, where there is one."""
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode().partition("?")[0]
        body = pages.get(path, pages.get("*", "")).encode()
        status = "200 OK" if path in pages or "*" in pages else "404 Not Found"
        kind = "text/javascript" if path.endswith(".js") else "text/xml" if path.endswith(".xml") else "text/html"
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-type: {kind}; charset=utf-8\r\n{extra}"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    async with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"
