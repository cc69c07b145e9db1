"""Starts services without importing them each time, which takes a second of a processor.

Run as a program, this is a process that has imported one service and forks for each request. Its standard input is a
socket on which it receives, for each process that it is to start, two files: where the process writes, and a socket.
On that one it reads the working folder and the environment as a line of JSON, and says the process id, then the exit
code, each in ten characters.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO


class Fork:
    """A process of a service, with those methods of `subprocess.Popen` that tests need."""

    def __init__(self, module: str, environment: Mapping[str, str], output: IO[bytes]) -> None:
        """Start `main` of a module in the current working folder."""
        self._connection, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(module), [b"1"], [output.fileno(), theirs.fileno()])
        self._connection.sendall(json.dumps([str(Path.cwd()), dict(environment)]).encode() + b"\n")
        self.pid = int(self._connection.recv(10))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs; as of `Popen`, minus the number of the signal that has ended it."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait until it has ended; return the exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.

        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(10))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout) from None
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Forget it; it has ended."""
        self._connection.close()

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@cache
def _server(module: str) -> socket.socket:
    """The connection to the process that has imported a module; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.tools.forks", module]
        process = subprocess.Popen(command, stdin=theirs.fileno())

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve() -> None:
    """Start a process for each request, until there can be no more. Returns in each of these processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the processes
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as requests:
        while files := socket.recv_fds(requests, 1, 2)[1]:
            if not os.fork():
                requests.close()
                _keep(*files)
                return
            for file in files:
                os.close(file)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
    sys.exit()


def _keep(output: int, connection: int) -> None:
    """Start a process and stay until it has ended. Returns in that process."""
    with socket.socket(fileno=connection) as socket_of_test, socket_of_test.makefile("rb") as lines:
        folder, environment = json.loads(lines.readline())
        if pid := os.fork():
            socket_of_test.send(b"%10d" % pid)
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):
                socket_of_test.send(b"%10d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    main = import_module(f"{sys.argv.pop()}.__main__").main
    _serve()
    main()
