"""Names that lead to other names, by decision of a person: renamed identities, and merged contacts.

No event and no contact changes by such a decision. What it means is found when something is read or decided.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

MAX_DECISIONS: Final = 50
"""Beyond this number, the oldest decision about a name is dropped; all but the last are undone."""


class RedirectDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision that a name leads to another. It is in force until it is undone."""

    to_id: str
    actor: str
    at_ms: int
    undone_by: str = ""
    undone_ms: int = 0


class Redirect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was decided about a name, newest last. Every write sets another `rev`.

    For queries: `ends` are both names while the last decision is in force, `mentions` are all names in the record.
    `is_due`: links have not been decided since the last change.
    """

    from_id: str = msgspec.field(name="_id")
    rev: str = ""
    decisions: tuple[RedirectDecision, ...] = ()
    ends: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    is_due: bool = False

    @property
    def to_id(self) -> str:
        """The name that this one leads to; "" if the last decision was undone."""
        return self.ends[1] if self.ends else ""


def decided(before: Redirect | None, from_id: str, to_id: str, actor: str, now_ms: int) -> Redirect:
    """Return the record of a name that leads to another from now on."""
    earlier = before.decisions if before else ()
    return _with(before, from_id, (*earlier, RedirectDecision(to_id=to_id, actor=actor, at_ms=now_ms)))


def undone(before: Redirect, actor: str, now_ms: int) -> Redirect:
    """Return the record of a name whose last decision is no longer in force."""
    *earlier, last = before.decisions
    return _with(before, before.from_id, (*earlier, replace(last, undone_by=actor, undone_ms=now_ms)))


def _with(before: Redirect | None, from_id: str, decisions: tuple[RedirectDecision, ...]) -> Redirect:
    decisions = decisions[-MAX_DECISIONS:]
    last = decisions[-1]
    return Redirect(
        from_id=from_id,
        rev=before.rev if before else "",
        decisions=decisions,
        ends=() if last.undone_ms else (from_id, last.to_id),
        mentions=_mentioned(from_id, decisions),
        is_due=True,
    )


def _mentioned(from_id: str, decisions: Iterable[RedirectDecision]) -> tuple[str, ...]:
    return tuple(sorted({from_id, *(decision.to_id for decision in decisions)}))


def forgetting(redirect: Redirect, names: Container[str]) -> Redirect | None:
    """Return the record without decisions that mention one of these names; None if there are none left."""
    decisions = tuple(decision for decision in redirect.decisions if decision.to_id not in names)
    if redirect.from_id in names or not decisions:
        return None
    ends = () if redirect.to_id in names else redirect.ends
    return replace(redirect, decisions=decisions, ends=ends, mentions=_mentioned(redirect.from_id, decisions))


def limited_to(redirect: Redirect, visible: Container[str]) -> Redirect | None:
    """Return the decisions between names that are visible; None if there are none."""
    if redirect.from_id not in visible:
        return None
    decisions = tuple(decision for decision in redirect.decisions if decision.to_id in visible)
    ends = redirect.ends if redirect.to_id in visible else ()
    return replace(redirect, decisions=decisions, ends=ends) if decisions else None


class Names:
    """Redirects in force: which names lead to which."""

    def __init__(self, leads_to: Mapping[str, str]) -> None:
        """`leads_to`: the name that a name leads to directly."""
        self.leads_to = leads_to
        self._neighbours: defaultdict[str, set[str]] = defaultdict(set)
        for one, other in leads_to.items():
            self._neighbours[one].add(other)
            self._neighbours[other].add(one)

    def __bool__(self) -> bool:
        """Whether there is any redirect."""
        return bool(self.leads_to)

    @property
    def all(self) -> set[str]:
        """All names that lead to others, or to which others lead."""
        return {*self._neighbours}

    def together(self, name: str) -> list[str]:
        """Return the names that mean the same as this one, and itself, in order."""
        if name not in self._neighbours:
            return [name]
        found, left = {name}, [name]
        while left:
            further = self._neighbours[left.pop()] - found
            found |= further
            left += further
        return sorted(found)

    def current(self, name: str, among: Container[str] | None = None) -> str:
        """Return the name that this one leads to in the end; with `among`, the last one of these that it leads to."""
        found, passed = name, {name}
        while (name := self.leads_to.get(name, "")) and name not in passed:
            passed.add(name)
            if among is None or name in among:
                found = name
        # Redirects in a circle are refused, but two that are decided at the same time form one for a moment.
        return min(passed) if name and among is None else found

    def has_circle(self, name: str) -> bool:
        """Return whether a name leads to itself."""
        passed: set[str] = set()
        at = self.leads_to.get(name, "")
        while at and at not in passed:
            if at == name:
                return True
            passed.add(at)
            at = self.leads_to.get(at, "")
        return False

    def among(self, visible: Container[str]) -> "Names":
        """Return the redirects between names that are visible."""
        return Names({one: other for one, other in self.leads_to.items() if one in visible and other in visible})


def all_together(names: Names, wanted: Iterable[str]) -> Collection[str]:
    """Return these names and all that mean the same as one of them."""
    return {name for one in wanted for name in names.together(one)}
