"""Turns a person's name into a visit worth asking about: what was sent, and the ids that follow from it."""

import uuid
from typing import Any

from footfall.event.v1.event_pb2 import EventBatch
from footfall_timeline import normalize_uuid, page_id, session_id

from tests.tools.history import entry
from tests.tools.visits import Event, event, new_id, now_ms

MINUTE_MS = 60_000


class Story:
    """Somebody enters the shop, looks at loans, signs in, fills the cart, looks at it and signs out."""

    def __init__(self, person: str, at_ms: int | None = None, **about_request: Any) -> None:
        self.person = person
        self.at_ms = now_ms() - MINUTE_MS if at_ms is None else at_ms
        self.visit_id, self.device = str(uuid.uuid4()), str(uuid.uuid4())
        loans, cart = new_id(), new_id()
        self.loans, self.cart = page_id(self.visit_id, loans), page_id(self.visit_id, cart)
        self._about_request = about_request
        self.events = [
            self._event("VisitStarted", 0, pageID=loans, category=""),
            self._event("PageEntered", 1, pageID=loans, data={"title": "Loans"}),
            self._event("SignIn", 2_000, person, pageID=loans),
            self._event("AddToCart", 3_000, pageID=loans, category="cars; bikes", data={"sku": "A-1"}),
            self._event("PageExited", 4_000, pageID=loans),
            self._event("PageEntered", 4_000, pageID=cart, data={"title": "Cart"}, url="https://shop.example/cart"),
            self._event("SignOut", 5_000, pageID=cart),
        ]
        self.session_id = session_id(self.visit_id, self.event_id(2))

    def _event(self, name: str, after_ms: int, user: str | None = None, **more: Any) -> Event:
        return event(name, self.visit_id, self.at_ms + after_ms, user, globalVisitID=self.device, **more)

    def event_id(self, position: int) -> str:
        """The id of an event, as it is stored."""
        return normalize_uuid(self.events[position]["eventID"])

    def entry(self) -> EventBatch:
        """The whole visit as one entry of the log."""
        return entry(self.events, **self._about_request)
