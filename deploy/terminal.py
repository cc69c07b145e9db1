"""Filters the output of the suite's programs for the terminal of `make run`.

A supervisor event listener. It writes to stderr, because the protocol of listeners uses stdin and stdout. It shows
warnings and errors, lines that are not log lines (a traceback, a refused setting), and a line when the suite is ready.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import defaultdict

from supervisor.childutils import eventdata, listener

from deploy.embedded import gateway_url, is_ready

QUIET = {"debug", "info"}


def shown(line: str) -> bool:
    """Whether to show a line of a program's output."""
    try:
        return json.loads(line).get("level") not in QUIET
    except (ValueError, AttributeError):
        return bool(line.strip())


def show_when_ready(gateway: str) -> None:
    """Wait until the suite is ready, and show that."""
    while not is_ready(gateway):
        time.sleep(0.2)
    sys.stderr.write(f"Footfall is ready at {gateway}\n")


def main() -> None:
    """Show lines of the programs' output until supervisord ends this process."""
    argparse.ArgumentParser(prog="python -m deploy.terminal", description=__doc__).parse_args()
    threading.Thread(target=show_when_ready, args=(gateway_url(os.environ),), daemon=True).start()
    unfinished: dict[str, str] = defaultdict(str)
    while True:
        _, payload = listener.wait()
        process, data = eventdata(payload)
        name = process["processname"]
        *lines, unfinished[name] = (unfinished[name] + data).split("\n")
        sys.stderr.write("".join(f"{name}: {line}\n" for line in lines if shown(line)))
        listener.ok()


if __name__ == "__main__":
    main()
