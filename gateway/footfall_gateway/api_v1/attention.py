"""The rules by which the console says who needs a look. The console applies them to the visitors of its list."""

from typing import Annotated, Any, Final

import msgspec
from footfall_eventlog.attention import AttentionRules
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.http import Call, NoQuery, Operation, json_response

_PATTERN: Final = "In a pattern `*` stands for any characters, and the case does not matter."
_Name = Annotated[str, Meta(description="What the console says of such a visitor.")]


class AttentionPageRule(msgspec.Struct):
    """A visitor needs a look who is on a page like this."""

    name: _Name
    titles: Annotated[list[str], Meta(description=f"Patterns of titles, one of which is enough. {_PATTERN}")]
    addresses: Annotated[list[str], Meta(description=f"Patterns of addresses, one of which is enough. {_PATTERN}")]
    minutes: Annotated[int, Meta(description="After how many minutes on the page; 0: immediately.", ge=0)]


class AttentionEventRule(msgspec.Struct):
    """A visitor needs a look of whom such events are repeated."""

    name: _Name
    events: Annotated[list[str], Meta(description=f"Patterns of names of events, one of which is enough. {_PATTERN}")]
    count: Annotated[int, Meta(description="How many events it takes.", ge=1)]
    minutes: Annotated[int, Meta(description="Within how many minutes.", ge=1)]


class Attention(msgspec.Struct):
    """The rules of `ATTENTION_FILE`, in its order."""

    pages: Annotated[list[AttentionPageRule], Meta(description="Rules about pages.")]
    events: Annotated[list[AttentionEventRule], Meta(description="Rules about events.")]


class AttentionApi:
    """The rules of ATTENTION_FILE."""

    def __init__(self, rules: AttentionRules) -> None:
        self._rules = msgspec.convert({"pages": rules.page, "events": rules.event}, Attention, from_attributes=True)

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations. They call no service."""
        return [
            Operation("getAttention", "GET", "/attention", self.get, NoQuery, Attention, never={501, 503, 504}),
        ]

    async def get(self, call: Call[NoQuery, None]) -> Response:  # noqa: ARG002 - the form of every handler
        """The rules by which the console says who needs a look."""
        return json_response(self._rules)
