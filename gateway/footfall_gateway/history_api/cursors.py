"""Cursors of the History API: the `Paging-Next` header of a response, and the `page_start` parameter of a request.

A cursor is `<id of the parent>#<milliseconds>#<id of the item>`, as in Genesys Web Engagement (GWE) 8.5. The id of an
identity may contain `#`, so a cursor is split from the right. Characters that a header cannot have are percent-encoded.
"""

import re
from urllib.parse import quote, unquote

from footfall.history.v1.history_service_pb2 import Position

from footfall_gateway.problem import Problem

# Printable ASCII except `%` and `+`, so that a client may put the cursor into a URL with only `#` escaped.
_PLAIN = "!\"#$&'()*,-./:;<=>?@[\\]^_`{|}~"

_CURSOR = re.compile(r"(?P<parent>.*)#(?P<time_ms>[0-9]{1,15})#(?P<id>[0-9a-f-]{36})", re.DOTALL)


def format_cursor(parent_id: str, position: Position) -> str:
    """The value of `Paging-Next`."""
    return f"{quote(parent_id, _PLAIN)}#{position.time_ms}#{position.id}"


def parse_cursor(parent_id: str, page_start: str) -> Position | None:
    """The position in a cursor of this parent's collection; None for an empty cursor.

    Raises:
        Problem: 400, it is not a cursor, or belongs to another parent.

    """
    if not page_start:
        return None
    parsed = _CURSOR.fullmatch(page_start)
    if not parsed or unquote(parsed["parent"]) != parent_id:
        raise Problem.parameter("page_start", "must be the Paging-Next of the page before")
    return Position(time_ms=int(parsed["time_ms"]), id=parsed["id"])
