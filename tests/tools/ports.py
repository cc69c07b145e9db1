"""Free TCP ports."""

import random
import socket
from contextlib import ExitStack, suppress

# Below the ports that systems give to programs that ask for any: a restarted program finds its port still free.
PORTS = range(10_000, 32_768)


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that no program listens on at this moment."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = random.choice(PORTS)  # noqa: S311 - not secret
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports
