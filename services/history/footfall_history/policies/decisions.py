"""What an identity policy decides about a stored event, by the functions by which admission decides it."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, IgnoredReason
from footfall_eventlog.events import SIGN_IN, SIGN_OUT, USER_ID
from footfall_eventlog.identified_user import IdentifiedUser, apply_policy, data_fields, extract_user
from footfall_eventlog.identity_policy import SitePolicy
from footfall_timeline import Assurance, Kind, Transition

from footfall_history.storage import event_time_ms

EVENT_FIELDS: Final = (
    *("visit_id", "event_id", "order_key", "site", "event_name", "data_json", "proven_json", "token_id", "transition"),
    *("assurance", "names_identity_id", "ignored_reason", "ignored_keys", "policy_version", "erased", "imported"),
    *("assurance_reason", "global_visit_id"),
)
"""The fields of an event that a decision depends on."""

REJECTED: Final = "rejected"
"""The outcome of an event that names no user at all by the keys of the policy: the collector would not store it."""
ERASED: Final = "erased"

_MASK: Final = "***"
"""What the collector has stored in place of a secret. It never masks `userID`."""
_WRONG_SUBJECT: Final = "token_wrong_subject"
_REASONS: Final = {
    number: name.removeprefix("IGNORED_REASON_").lower() for name, number in IgnoredReason.items() if number
}


class Doubt(StrEnum):
    """Why what a policy decides about a stored event is not certain."""

    ERASED = "erased"
    """The content of the event has been erased. Its decision is kept."""
    MALFORMED = "malformed"
    """The data of the event are no JSON object, as of a dead letter that was repaired so. Its decision is kept."""
    MASKED = "masked"
    """The value that names the user was masked when it was stored. Its decision is kept."""
    TOKEN_NOT_KEPT = "token_not_kept"  # noqa: S105 - no password
    """A SignIn of a site with signing keys, which was ignored or had the token of another user, is decided otherwise.
    Its token is not stored to be verified again, so it counts as invalid. If only the token may have named the user,
    the decision is kept."""


class Decision(NamedTuple):
    """Whom an event names, and whether it is a transition.

    - `kind`: None if it is no transition. Otherwise identity, assurance and token id are those of the transition.
    - `reason`: why it names no person: the text of an `IgnoredReason`, REJECTED or ERASED. Empty if it names one.
    - `ignored_keys`: keys of attributes that are no evidence for a contact.
    """

    kind: Kind | None
    identity: str = ""
    assurance: Assurance = Assurance.NONE
    token_id: str = ""
    reason: str = ""
    ignored_keys: frozenset[str] = frozenset()

    @property
    def effect(self) -> tuple[Kind | None, str, Assurance, str]:
        """What the timeline of the visit depends on."""
        return self[:4]

    def erased(self) -> "Decision":
        """The decision about an event of a person who has been erased."""
        return self._replace(identity="", reason=ERASED, ignored_keys=frozenset())


class JudgedEvent(NamedTuple):
    """An event with the decision that is stored, the version of its policy, and the decision under another policy."""

    order_key: str
    event_id: str
    name: str
    version: str
    before: Decision
    after: Decision
    doubt: Doubt | None = None

    def transition(self, decision: Decision) -> Transition | None:
        """The transition of the event by one of its decisions."""
        kind, identity, assurance, token_id = decision.effect
        if kind is None:
            return None
        return Transition(event_time_ms(self.order_key), self.event_id, kind, assurance, identity, token_id)


def judge(
    document: Mapping[str, Any], policy_of: Callable[[str], SitePolicy], signing_sites: Container[str]
) -> JudgedEvent:
    """Judge a stored SignIn, UserInfo or SignOut, given as EVENT_FIELDS, by the policy of its site.

    `signing_sites` are those where only a SignIn with a valid token authenticates.
    """
    before, doubt = _stored(document), None
    after, name, site = before, document["event_name"], document["site"]
    if name != SIGN_OUT and document.get("erased"):
        doubt = Doubt.ERASED
    elif name != SIGN_OUT:
        needs_token = site in signing_sites and not document.get("imported")
        try:
            after, doubt = _under(document, before, policy_of(site), needs_token=needs_token)
        except ValueError:  # DecodeError is one
            doubt = Doubt.MALFORMED
    version = document.get("policy_version", "")
    return JudgedEvent(document["order_key"], document["event_id"], name, version, before, after, doubt)


def _stored(document: Mapping[str, Any]) -> Decision:
    """The decision that admission took, as far as it has not been erased."""
    reason = document.get("ignored_reason", 0)
    return Decision(
        Kind(document["transition"]) if "transition" in document else None,
        document.get("names_identity_id", ""),
        Assurance(document.get("assurance", 0)),
        document.get("token_id", ""),
        _REASONS.get(reason, "unknown") if reason else ERASED if document.get("erased") else "",
        frozenset(document.get("ignored_keys", ())),
    )


def _under(
    document: Mapping[str, Any], before: Decision, policy: SitePolicy, *, needs_token: bool
) -> tuple[Decision, Doubt | None]:
    event = Event(event_name=document["event_name"], data_json=document.get("data_json", b""))
    fields = data_fields(event.data_json)
    user = extract_user(event, _stored_keys(policy.user_id_keys, fields))
    if document.get("imported"):  # the server that it came from has decided whom it names
        user = user or IdentifiedUser("", False, False, None, fields)
        user = user._replace(user_id=before.identity or user.user_id)
    elif user and not user.is_user_id_key and _MASK in user.user_id and before.assurance is not Assurance.PROVEN:
        if before.identity in {"", *_plain_texts(fields)} or not _may_be(before.identity, user.user_id):
            return before, Doubt.MASKED
        user = user._replace(user_id=before.identity)
    if user is None:
        return Decision(None, reason=REJECTED), None
    is_sign_in = document["event_name"] == SIGN_IN
    may_be_proven = before.kind is None and is_sign_in and needs_token
    if may_be_proven and not user.is_user_id_key:  # a token may have named another user, who was ignored
        return before, Doubt.TOKEN_NOT_KEPT
    if before.assurance is Assurance.PROVEN and not _names_other(user, before.identity):
        event.transition, event.identity_id = event_pb2.TRANSITION_KIND_SIGN_IN, before.identity
        event.assurance, event.token_id = event_pb2.ASSURANCE_PROVEN, before.token_id
        event.proven_json = document.get("proven_json", b"")
    else:
        is_believed = before.kind is Kind.SIGN_IN and before.assurance is Assurance.CLAIMED
        is_believed = is_believed or (before.kind is None and is_sign_in and not needs_token)
        event.transition = event_pb2.TRANSITION_KIND_SIGN_IN if is_believed else event_pb2.TRANSITION_KIND_USER_INFO
        event.identity_id, event.assurance = user.user_id, event_pb2.ASSURANCE_CLAIMED
    after = _decision(event, before, fields) if apply_policy(event, user, policy) else Decision(None, reason=REJECTED)
    may_be_proven = may_be_proven and after.effect != before.effect
    if document.get("assurance_reason") == _WRONG_SUBJECT:
        may_be_proven = not user.is_user_id_key or user.user_id != before.identity
    return after, Doubt.TOKEN_NOT_KEPT if may_be_proven else None


def _decision(event: Event, before: Decision, fields: Mapping[str, msgspec.Raw]) -> Decision:
    """The decision that an event has after `apply_policy`."""
    if event.ignored_reason:
        return Decision(None, reason=_REASONS[event.ignored_reason])
    # What was masked later cannot be judged again. Keys of a token are not masked.
    judged_before = () if before.assurance is Assurance.PROVEN else before.ignored_keys
    masked = {key for key in judged_before if _MASK.encode() in bytes(fields.get(key, b""))}
    return Decision(
        Kind(event.transition),
        event.identity_id,
        Assurance(event.assurance),
        event.token_id,
        ignored_keys=frozenset(event.ignored_keys) | masked,
    )


def _stored_keys(keys: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """The keys as they are in stored data: the collector has renamed other spellings of `userID` that decided."""
    return [USER_ID if key not in fields and key.casefold() == USER_ID.casefold() else key for key in keys]


def _names_other(user: IdentifiedUser, proven: str) -> bool:
    """Whether the page names another user than the token, so that the token does not count."""
    return user.is_user_id_key and user.user_id not in {"", proven}


def _plain_texts(fields: Mapping[str, msgspec.Raw]) -> Iterator[str]:
    """The values that may be user ids."""
    for value in fields.values():
        if not bytes(value).startswith((b"{", b"[")):
            yield str(msgspec.json.decode(value))


def _may_be(identity: str, masked: str) -> bool:
    """Whether a text with masked parts may be that of an identity."""
    first, *middle, last = masked.split(_MASK)
    if not (identity.startswith(first) and identity[len(first) :].endswith(last)):
        return False
    rest = identity[len(first) : len(identity) - len(last)]
    for part in middle:
        _, found, rest = rest.partition(part) if part else ("", " ", rest)
        if not found:
            return False
    return True
