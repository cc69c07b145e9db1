"""Turns the output of the suite's programs into the few lines that belong on the terminal of `make run`.

A supervisor event listener: its stdin and stdout are spoken for, what it shows goes to stderr. Shown are warnings and
errors, everything that is no log line (a traceback, a refused setting), and once that the suite serves.
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
    """Whether a line of a program's output belongs on the terminal."""
    try:
        return json.loads(line).get("level") not in QUIET
    except (ValueError, AttributeError):
        return bool(line.strip())


def show_when_ready(gateway: str) -> None:
    """Wait until the gateway says that everything serves, then show it."""
    while not is_ready(gateway):
        time.sleep(0.2)
    sys.stderr.write(f"Footfall serves at {gateway}\n")


def main() -> None:
    """Show what supervisord passes on, until it ends this process."""
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
