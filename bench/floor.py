"""Turns nothing into 204: the least a server of beacons could do, under the gateway's HTTP server and settings."""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from deploy.embedded import ROOT
from tests.tools.ports import free_ports

START_SECONDS = 10.0


async def floor(_scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, decode it, answer."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    msgspec.json.decode(body)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def serve(port: int) -> None:
    """Serve until a signal."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2_048)
    config = uvicorn.Config(
        floor,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    await uvicorn.Server(config).serve([listener])


@contextmanager
def running_floor() -> Iterator[str]:
    """The floor in a process of its own; gives its URL."""
    [port] = free_ports(1)
    process = subprocess.Popen([sys.executable, "-m", "bench.floor", str(port)], cwd=ROOT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("port", type=int)
    port = parser.parse_args().port
    if sys.platform != "linux":
        sys.exit("The load runs read /proc, so they need Linux.")
    uvloop.run(serve(port))
