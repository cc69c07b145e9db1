"""An extension of supervisord: limits its pause before it starts a program again that has failed at its start.

supervisord waits a second longer after each such start, without a limit. So a store would come back late after its disk
was full for long.
"""

import time
from typing import Any

from supervisor.events import ProcessStateBackoffEvent, subscribe


class NoMethods:
    """supervisord loads extensions as interfaces of its XML-RPC server; this one has no methods."""


def limit(_supervisord: Any, max_pause_s: str) -> NoMethods:
    """The factory that supervisord.conf names; `max_pause_s` is the limit in seconds."""
    most_s = float(max_pause_s)

    def shorten(event: Any) -> None:
        event.process.delay = min(event.process.delay, time.time() + most_s)

    subscribe(ProcessStateBackoffEvent, shorten)
    return NoMethods()
