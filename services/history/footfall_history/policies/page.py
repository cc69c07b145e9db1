"""The report as one HTML page: without scripts, and without any address that a browser would load."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from footfall_history.policies.report import (
    EventExplanation,
    IdentityChanges,
    Links,
    LinkSide,
    Report,
    VisitExample,
)

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } th, td { border: 1px solid #ccc; padding: .2rem .5rem; }
th { background: #f2f2f2; text-align: left; font-weight: 600; } td { vertical-align: top; white-space: pre-wrap;
  overflow-wrap: anywhere; }
td.number { text-align: right; } tr.changed { background: #fff4d6; } .note { color: #555; }
"""
_KINDS: Final = (
    ("merged", "Identities that merge others", "events named"),
    ("split", "Identities that split", "events name now"),
    ("renamed", "Identities with another name", "name now"),
    ("vanished", "Identities that vanish", "why"),
    ("new", "New identities", "why not before"),
)
_REASONS: Final = {
    "": "the same",
    "named": "names a person",
    "other_user": "names another person",
    "rejected": "gives no user id: not stored",
    "erased": "of an erased person",
    "blank": "ignored: blank",
    "placeholder": "ignored: placeholder",
    "template": "ignored: unfilled template",
    "empty_hash": "ignored: hash of an empty text",
}
_LINK_REASONS: Final = {
    "evidence": "other values are evidence",
    "sharing": "a value or the identity is shared too much, or no longer",
    "rules": "other rules",
}
_DOUBTS: Final = {
    "erased": "The content of the event has been erased; its decision is kept.",
    "expired": "The event has expired, while its visit has not; its decision is kept.",
    "malformed": "The data of the event are no JSON object; its decision is kept.",
    "masked": "The value that names the user was masked when it was stored; its decision is kept.",
    "token_not_kept": "A SignIn on a site with signing keys was ignored, or had the token of another user, and is "
    "decided otherwise. Its token is not stored to be verified again, so it counts as a UserInfo. If only the token "
    "may have named the user, the decision is kept.",
}

Cell = str | int | list[str]
"""A text, a number, or lines of text."""


def to_html(report: Report) -> bytes:
    """The report as a page in UTF-8."""
    sites = ", ".join(report.sites) or "all sites"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>Policy {_shown(report.policy_version)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>What the policy {_shown(report.policy_version)} changes</h1>",
        _paragraph(
            f"{report.visits:,} visits of {sites} that began from {report.from_time or 'the first one'} to "
            f"{report.to_time}, with {report.events:,} SignIn, UserInfo and SignOut events. "
            f"{report.staff_visits:,} visits of staff are left out. Made at "
            f"{report.create_time} in {report.seconds:,} s. Nothing was written."
        ),
        _paragraph("This page contains personal data.", "note"),
        *_visits(report),
        *_decisions(report),
        *_identities(report),
        *_links(report.links),
        "<h2>Examples</h2>",
        _paragraph("For each event: what it does by the stored decisions, and under the policy. Changes are marked."),
        *(_example(example) for example in report.examples),
        "<h2>What is not certain, and not shown</h2>",
        _table(("why", "decisions"), [(why, getattr(report.doubts, doubt)) for doubt, why in _DOUBTS.items()]),
        f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in report.not_simulated)}</ul>",
        "</body></html>",
    ]
    return "\n".join(parts).encode("utf-8", "backslashreplace")


def _visits(report: Report) -> Iterable[str]:
    changed = report.changed_visits
    yield "<h2>Visits</h2>"
    yield _table(
        ("what changes", "visits"),
        [
            ("the state at the end", changed.state),
            ("the identity at the end", changed.identity),
            ("only what was in between", changed.course),
        ],
    )
    yield _table(
        ("state before", "state now", "visits"),
        [(one.before, one.after, one.visits) for one in report.states],
        changed=[one.before != one.after for one in report.states],
    )
    yield _paragraph(f"Sessions: {report.sessions_before:,} before, {report.sessions_after:,} now.")


def _decisions(report: Report) -> Iterable[str]:
    yield "<h2>Decisions about events</h2>"
    yield _table(
        ("before", "now", "events"),
        [(_reason(one.before), _reason(one.after), one.events) for one in report.decisions],
        changed=[one.before != one.after for one in report.decisions],
    )
    yield _table(
        ("version that decided before", "events"),
        [(one.version or "(before there were policies)", one.events) for one in report.stored_versions],
    )
    yield "<h2>Evidence for links to contacts</h2>"
    yield _table(
        ("key", "now", "SignIn events"),
        [(one.key, "is evidence" if one.after else "is no evidence", one.events) for one in report.evidence],
    )


def _identities(report: Report) -> Iterable[str]:
    yield "<h2>Identities</h2>"
    yield _paragraph(f"{report.identities.before:,} before, {report.identities.after:,} now.")
    for kind, title, about in _KINDS:
        changes: IdentityChanges = getattr(report.identities, kind)
        yield f"<h3>{title}: {changes.total:,}</h3>"
        if changes.largest:
            yield _identity_table(changes, about)
        if changes.total > len(changes.largest):
            yield _paragraph(f"{changes.total - len(changes.largest):,} more are not listed.", "note")


def _identity_table(changes: IdentityChanges, about: str) -> str:
    rows: list[tuple[Cell, ...]] = []
    for one in changes.largest:
        parts = [
            f"{_name(part.identity_id)}{f' ({_reason(part.reason)})' if part.reason else ''}: "
            f"{part.events:,} events in {part.visits:,} visits"
            for part in one.parts
        ]
        rows.append((_name(one.identity_id), one.events, parts))
    return _table(("identity", "events", about), rows)


def _links(links: Links | None) -> Iterable[str]:
    yield "<h2>Links to contacts</h2>"
    if links is None:
        yield _paragraph("Not compared, because identity did not answer.", "note")
        return
    orders = [", then ".join(rules) or "none" for rules in (links.rules_before, links.rules_after)]
    yield _paragraph(
        f"Rules in force (version {links.version_in_force}): {orders[0]}. Rules of the policy: {orders[1]}. "
        f"{links.identities:,} identities are named, of which {links.not_compared:,} are not compared."
    )
    yield _table(
        ("before", "now", "why", "identities"),
        [
            (
                _decided(one.before_status, one.before_rule),
                _decided(one.after_status, one.after_rule),
                _LINK_REASONS[one.reason],
                one.identities,
            )
            for one in links.outcomes
        ],
    )
    for title, changes in (
        ("Links made", links.made),
        ("Links undone", links.undone),
        ("Links to another contact", links.moved),
    ):
        yield f"<h3>{title}: {changes.total:,}</h3>"
        if changes.examples:
            rows = [
                (_name(one.identity_id), _link(one.before), _link(one.after), _LINK_REASONS[one.reason])
                for one in changes.examples
            ]
            yield _table(("identity", "before", "now", "why"), rows)
        if changes.total > len(changes.examples):
            yield _paragraph(f"{changes.total - len(changes.examples):,} more are not listed.", "note")


def _decided(status: str, rule: str) -> str:
    return f"{status} by {rule}" if rule else status


def _link(side: LinkSide) -> list[str]:
    contact = f" to “{side.contact_id}”" if side.contact_id else ""
    candidates = f", {side.candidates:,} contacts match" if side.candidates else ""
    return [f"{_decided(side.status, side.rule)}{contact}{candidates}", *(f"not used: {one}" for one in side.unused)]


def _example(example: VisitExample) -> str:
    rows = [
        (one.event_time, one.event_name or "(expired)", *_cells(one.before), *_cells(one.after))
        for one in example.events
    ]
    changed = [one.before != one.after for one in example.events]
    heads = ("time", "event", "before", "names", "visitor", "now", "names", "visitor")
    more = f" {example.more_events:,} more events are not listed." if example.more_events else ""
    return (
        f"<h3>Visit {_shown(example.visit_id)}</h3>"
        + _paragraph(f"Site {example.site}, from {example.start_time}. Its {example.change} changes.{more}", "note")
        + _table(heads, rows, changed=changed)
    )


def _cells(one: EventExplanation) -> tuple[str, str, str]:
    visitor = f"{one.state} {_name(one.identity_id)}" if one.identity_id else one.state
    rule = f"{one.rule}: {one.reason}" if one.reason else one.rule
    return rule, _name(one.names) if one.names else "", visitor


def _reason(reason: str) -> str:
    return _REASONS.get(reason, reason)


def _name(identity: str) -> str:
    return f"“{identity}”" if identity else "no person"  # quotes show white space at the ends


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, changed: Sequence[bool] = ()) -> str:
    """A table; rows that are `changed` are marked. Without rows it says so."""
    if not rows:
        return _paragraph("None.", "note")
    lines = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    for number, row in enumerate(rows):
        mark = ' class="changed"' if number < len(changed) and changed[number] else ""
        lines.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(value: Cell) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{_shown(value) if isinstance(value, str) else '<br>'.join(map(_shown, value))}</td>"


def _paragraph(text: str, name: str = "") -> str:
    mark = f' class="{name}"' if name else ""
    return f"<p{mark}>{_shown(text)}</p>"


def _shown(text: str) -> str:
    """The text, escaped, with characters that show nothing or change the direction of others as codes."""
    return escape("".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text))
