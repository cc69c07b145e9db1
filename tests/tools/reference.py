"""Turns all that was sent into what Footfall must say, the naive way: sort by time, walk once. Shares no code with it.

Compare with the transition table of docs/concepts.md. No event before the erasure names an erased person. The
earliest transitions of a visit count, so many as are kept.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from tests.tools.presence import Pages, Seen

TRANSITIONS = {"UserInfo", "SignIn", "SignOut"}


class Sent(NamedTuple):
    """One event. Sorts by (time, id)."""

    at_ms: int
    event_id: str
    name: str
    user: str
    data: dict[str, Any]
    page: str = ""
    is_ignored: bool = False
    """Its user id names no person: it is no transition."""
    is_of_staff: bool = False


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
    pages_kept: int = 1_000
    leave_ms: int = 5_000
    visits: dict[str, dict[str, Sent]] = field(default_factory=dict)
    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_hand: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    """By identity: the number of the decision, `link` or `unlink`, and the contact."""
    decision_count: int = 0
    erased: dict[str, int] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    merges: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, set[str]] = field(default_factory=dict)
    """Whom an identity was ever renamed to, until one of both is erased."""
    merged: set[str] = field(default_factory=set)
    """The contacts that were ever merged."""

    def _is_erased(self, event: Sent) -> bool:
        return event.at_ms <= self.erased.get(event.user, -1)

    def walk(self, visit_id: str) -> Walk:
        """VisitState a visit."""
        walk = Walk()
        state, person, session = walk.last
        left = self.transitions_kept
        for event in sorted(self.visits[visit_id].values()):
            left -= event.name in TRANSITIONS and not event.is_ignored
            if left < 0 or event.is_ignored:
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

    def pages(self, visit_id: str) -> Pages:
        """The pages of a visit."""
        seen = [Seen(event.at_ms, event.name, event.page) for event in self.visits[visit_id].values()]
        return Pages(seen, self.pages_kept, self.leave_ms)

    def is_of_staff(self, visit_id: str) -> bool:
        """Whether a visit is one of staff."""
        return any(event.is_of_staff for event in self.visits[visit_id].values())

    def people(self) -> set[str]:
        """Who has been named and not forgotten since."""
        return {e.user for visit in self.visits.values() for e in visit.values() if e.user and not self._is_erased(e)}

    def current(self, user: str) -> str:
        """The name that an identity leads to."""
        while user in self.renames:
            user = self.renames[user]
        return user

    def names(self, user: str) -> set[str]:
        """All names of a person."""
        known = {user, *self.renames, *self.renames.values()}
        return {name for name in known if self.current(name) == self.current(user)}

    def contact(self, contact_id: str) -> str:
        """The last contact that exists, of this one and those that it leads to; or itself."""
        found = contact_id
        while contact_id in self.merges:
            contact_id = self.merges[contact_id]
            found = contact_id if contact_id in self.contacts else found
        return found

    def decide(self, user: str, choice: str, contact_id: str) -> None:
        """A person links or unlinks an identity. To link it to the same contact once more is no decision."""
        decisions = self.by_hand.setdefault(user, [])
        last = max((made for name in self.names(user) for made in self.by_hand.get(name, [])), default=None)
        if choice == "link" and decisions and decisions[-1] == last and last[1:] == (choice, contact_id):
            return
        self.decision_count += 1
        decisions.append((self.decision_count, choice, contact_id))

    def forget(self, user: str, at_ms: int) -> None:
        """A person is erased."""
        gone = self.names(user)
        for name in gone:
            self.erased[name] = at_ms
            self.by_hand.pop(name, None)
        self.renames = {one: other for one, other in self.renames.items() if one not in gone}
        self.renamed = {one: left for one, to in self.renamed.items() if one not in gone and (left := to - gone)}

    def contact_of(self, user: str) -> tuple[str, list[str]]:
        """The contact that an identity is linked to, or the candidates: several that match, or those of a UserInfo."""
        names = self.names(user)
        chosen = ""
        refused: set[str] = set()
        for _, choice, named in sorted(made for name in names for made in self.by_hand.get(name, [])):
            contact_id = self.contact(named)
            chosen = contact_id if choice == "link" else ""
            (refused.discard if choice == "link" else refused.add)(contact_id)
        if chosen in self.contacts:
            return chosen, []
        evidence = [
            event
            for visit in self.visits.values()
            for event in visit.values()
            if event.user in names and not (event.is_of_staff or self._is_erased(event))
        ]
        signs = [event for event in evidence if event.name == "SignIn"]
        said = {key: e.data[key] for e in sorted(signs) for key in ("email", "phone", "firstName") if key in e.data}
        addresses = [event.user for event in sorted(signs) if "@" in event.user]
        email = said.get("email", addresses[-1] if addresses else None)
        rules = [("emailAddresses", email), ("phoneNumbers", said.get("phone")), ("firstName", said.get("firstName"))]
        for key, value in rules:
            matching = {self.contact(c) for c, has in self.contacts.items() if value and value in has[key]}
            found = sorted(matching - refused)
            if found:
                return (found[0], []) if len(found) == 1 else ("", found)
        recognized = [event.user for event in sorted(evidence) if event.name == "UserInfo" and "@" in event.user]
        matching = {
            self.contact(c) for c, has in self.contacts.items() if {*recognized[-1:]} & {*has["emailAddresses"]}
        }
        return "", sorted(matching - refused)
