"""Turns the place where the next page begins into the `Paging-Next` header, and `page_start` back into that place.

A cursor is `<id of the parent>#<milliseconds>#<id of the item>`, as the original writes it. An identity's id may hold
`#` itself, so a cursor is split from the right. What a header cannot carry is percent-encoded.
"""

import re
from urllib.parse import quote, unquote

from footfall.history.v1.history_service_pb2 import Position

from footfall_gateway.problem import Problem

# Printable ASCII but `%` and `+`: a client that puts the cursor into a URL and escapes only `#` still gets it right.
_PLAIN = "!\"#$&'()*,-./:;<=>?@[\\]^_`{|}~"

# The parent is greedy: split from the right.
_CURSOR = re.compile(r"(?P<parent>.*)#(?P<time_ms>[0-9]{1,15})#(?P<id>[0-9a-f-]{36})", re.DOTALL)


def format_cursor(parent_id: str, position: Position) -> str:
    """The value of `Paging-Next`."""
    return f"{quote(parent_id, _PLAIN)}#{position.time_ms}#{position.id}"


def parse_cursor(parent_id: str, page_start: str) -> Position | None:
    """The place that a cursor of this parent's collection names; None for an empty cursor.

    Raises:
        Problem: 400, it is no cursor, or that of another parent.

    """
    if not page_start:
        return None
    parsed = _CURSOR.fullmatch(page_start)
    if not parsed or unquote(parsed["parent"]) != parent_id:
        raise Problem.parameter("page_start", "must be the Paging-Next of the page before")
    return Position(time_ms=int(parsed["time_ms"]), id=parsed["id"])
