"""Filters the output of the suite's programs for the terminal of `make run`, and restarts a broken MongoDB server.

A supervisor event listener. It writes to stderr, because the protocol of listeners uses stdin and stdout. It shows
warnings and errors, lines that are not log lines (a traceback, a refused setting), and a line when the suite is ready.
Warnings are held back while the suite starts, because programs that start wait for each other: they are shown if it is
not ready in time, else only the log files have them.

After a failed write, such as on a full disk, WiredTiger refuses everything until its process is restarted. A mongod
ends by itself then. SecantusDB does not, so this process ends it, and supervisord starts it again.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from supervisor.childutils import eventdata, listener

from deploy.embedded import gateway_url, is_ready

QUIET = {"debug", "info"}
START_S = 60.0
"""How long the suite may take to start: with new data, on a slow machine, it makes indexes for half a minute."""
BROKEN_STORE = "the process must exit and restart"
"""What WiredTiger writes after a failed write."""
STARTED_STORE = "secantusd-rs listening on "
"""How the line begins that the MongoDB server writes when it has started."""


def level(line: str) -> str:
    """The level of a line of a program's output; `error` for one that is not a log line.

    `debug` for an empty one, and for that of a store that has started.
    """
    try:
        return str(json.loads(line)["level"])
    except (ValueError, TypeError, KeyError):
        return "error" if line.strip() and not line.startswith(STARTED_STORE) else "debug"


class Screen:
    """Shows lines, except warnings while the suite starts."""

    def __init__(self, start_s: float = START_S) -> None:
        """The suite starts now."""
        self._lock = threading.Lock()
        self._starts_until = time.monotonic() + start_s
        self._held: list[str] = []

    def show(self, name: str, lines: Iterable[str]) -> None:
        """Show the lines of a program that a person should see, now or if the suite is not ready in time."""
        with self._lock:
            for line in lines:
                found = level(line)
                if found == "warning" and time.monotonic() < self._starts_until:
                    self._held.append(f"{name}: {line}\n")
                elif found not in QUIET:
                    sys.stderr.write(f"{name}: {line}\n")

    def show_when_ready(self, gateway: str) -> None:
        """Wait until the suite is ready, and show that."""
        while not is_ready(gateway):
            if time.monotonic() >= self._starts_until:
                self._release()
            time.sleep(0.2)
        with self._lock:
            self._starts_until = 0.0
            self._held.clear()
        sys.stderr.write(f"Footfall is ready at {gateway}\n")

    def _release(self) -> None:
        with self._lock:
            sys.stderr.write("".join(self._held))
            self._held.clear()


def main() -> None:
    """Show lines of the programs' output until supervisord ends this process."""
    argparse.ArgumentParser(prog="python -m deploy.terminal", description=__doc__).parse_args()
    screen = Screen()
    threading.Thread(target=screen.show_when_ready, args=(gateway_url(os.environ),), daemon=True).start()
    unfinished: dict[str, str] = defaultdict(str)
    ended: set[int] = set()
    while True:
        _, payload = listener.wait()
        process, data = eventdata(payload)
        name = process["processname"]
        *lines, unfinished[name] = (unfinished[name] + data).split("\n")
        screen.show(name, lines)
        pid = int(process["pid"])
        if name == "mongo" and pid not in ended and any(BROKEN_STORE in line for line in lines):
            ended.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        listener.ok()


if __name__ == "__main__":
    main()
