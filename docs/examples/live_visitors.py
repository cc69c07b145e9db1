"""Prints who is on the website, then each change of it, as JSON. IDENTITY_TARGET is host:port of identity."""

import json
import os

from footfall.identity.v1.visitor_pb2 import Visitor, VisitorState
from footfall_client import Footfall


def who(visitor: Visitor | None) -> list[str] | None:
    """State and identity; None: not on the website."""
    return visitor and [VisitorState.Name(visitor.state), visitor.identity_id]


if __name__ == "__main__":
    with Footfall(identity=os.environ["IDENTITY_TARGET"]) as footfall:
        for change in footfall.live_visitors():
            line = {"visit": change.visitor.visit_id, "before": who(change.before), "now": who(change.now)}
            print(json.dumps(line), flush=True)
