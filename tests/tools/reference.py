"""Turns all that was sent into what Footfall must say, the naive way: sort by time, walk once. Shares no code with it.

Compare with the transition table of docs/concepts.md. No event before the erasure names an erased person. The
earliest transitions of a visit count, so many as are kept.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid5

TRANSITIONS = {"UserInfo", "SignIn", "SignOut"}


class Sent(NamedTuple):
    """One event. Sorts by (time, id)."""

    at_ms: int
    event_id: str
    name: str
    user: str
    data: dict[str, Any]


@dataclass
class Walk:
    """What one visit amounts to: by event id its (state, identity, session); sessions; identities and their scope."""

    stamps: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    sessions: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)
    last: tuple[str, str, str] = ("ANONYMOUS", "", "")


@dataclass
class Reference:
    """Everything sent in one test."""

    transitions_kept: int = 1_000
    visits: dict[str, dict[str, Sent]] = field(default_factory=dict)
    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_hand: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    erased: dict[str, int] = field(default_factory=dict)

    def _is_erased(self, event: Sent) -> bool:
        return event.at_ms <= self.erased.get(event.user, -1)

    def walk(self, visit_id: str) -> Walk:
        """VisitState a visit."""
        walk = Walk()
        state, person, session = walk.last
        left = self.transitions_kept
        for event in sorted(self.visits[visit_id].values()):
            left -= event.name in TRANSITIONS
            if left < 0:
                walk.stamps[event.event_id] = walk.last
                continue
            user = "" if self._is_erased(event) else event.user
            own = None
            opens = event.name == "SignIn" and (state != "AUTHENTICATED" or user != person)
            closes = (event.name == "SignOut" or opens) and bool(session)
            if closes:
                walk.sessions[session] = (*walk.sessions[session][:2], event.at_ms)
            if opens:
                session = str(uuid5(UUID(visit_id), f"session/{event.event_id}")) if user else ""
                state, person = ("AUTHENTICATED", user) if user else ("ANONYMOUS", "")
                if session:
                    walk.sessions[session] = (user, event.at_ms, 0)
            elif event.name == "SignOut" and closes:
                state, own, session = "RECOGNIZED", ("RECOGNIZED", person, session), ""
            elif event.name == "UserInfo" and state == "AUTHENTICATED" and user != person:
                own = ("RECOGNIZED", user, "") if user else ("ANONYMOUS", "", "")
            elif event.name == "UserInfo" and state != "AUTHENTICATED":
                state, person = ("RECOGNIZED", user) if user else ("ANONYMOUS", "")
            if user:
                walk.scopes[user] = "RECOGNIZED"
            walk.last = (state, person, session)
            walk.stamps[event.event_id] = own or walk.last
        if state == "AUTHENTICATED":
            walk.scopes[person] = state
        return walk

    def people(self) -> set[str]:
        """Who has been named and not forgotten since."""
        return {e.user for visit in self.visits.values() for e in visit.values() if e.user and not self._is_erased(e)}

    def contact_of(self, user: str) -> tuple[str, list[str]]:
        """The contact that an identity is linked to, or the candidates when several match."""
        chosen = ""
        refused: set[str] = set()
        for choice, contact_id in self.by_hand.get(user, []):
            chosen = contact_id if choice == "link" else ""
            (refused.discard if choice == "link" else refused.add)(contact_id)
        if chosen in self.contacts:
            return chosen, []
        signs = [
            event
            for visit in self.visits.values()
            for event in visit.values()
            if event.name == "SignIn" and event.user == user and not self._is_erased(event)
        ]
        said = {key: e.data[key] for e in sorted(signs) for key in ("email", "phone", "firstName") if key in e.data}
        email = said.get("email", user if "@" in user and signs else None)
        rules = [("emailAddresses", email), ("phoneNumbers", said.get("phone")), ("firstName", said.get("firstName"))]
        for key, value in rules:
            found = [c for c, has in sorted(self.contacts.items()) if value and c not in refused and value in has[key]]
            if found:
                return (found[0], []) if len(found) == 1 else ("", found)
        return "", []
