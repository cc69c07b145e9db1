"""What a policy changes in the links of identities to contacts: the evidence of events, judged by identity.

Identity has the contacts, the merges, and what people have decided. It judges by the rules of either side, without
writing, as it judges what it stores.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from footfall.identity.v1 import contact_pb2
from footfall.identity.v1.contact_pb2 import ContactLink
from footfall.identity.v1.identity_service_pb2 import (
    EvidenceKey,
    IdentityEvidence,
    JudgeLinksRequest,
)
from footfall.identity.v1.identity_service_pb2 import (
    LinkRules as LinkRulesMessage,
)
from footfall_eventlog.attributes import AttributeNames
from footfall_eventlog.identity_policy import RULE_NAMES, IdentityPolicy, LinkPolicy, LinkRules
from footfall_eventlog.match_keys import Rule

from footfall_history.identity_client import IdentityClient
from footfall_history.policies import report as form
from footfall_history.policies.link_evidence import LinkEvidence, PersonEvidence

_PER_CALL: Final = 100
_STATUS: Final = {
    contact_pb2.LINK_STATUS_LINKED: "linked",
    contact_pb2.LINK_STATUS_AMBIGUOUS: "ambiguous",
    contact_pb2.LINK_STATUS_UNLINKED: "unlinked",
}
_RULES: Final = {int(rule): name for name, rule in RULE_NAMES.items()} | {int(Rule.MANUAL): "manual"}
_UNUSED: Final = {
    contact_pb2.UNUSED_REASON_GENERIC_VALUE: "generic_value",
    contact_pb2.UNUSED_REASON_SHARED_IDENTITY: "shared_identity",
}
_ATTRIBUTE_RULES: Final = {
    contact_pb2.LINK_ATTRIBUTE_EMAIL_ADDRESS: "email_address",
    contact_pb2.LINK_ATTRIBUTE_PHONE_NUMBER: "phone_number",
    contact_pb2.LINK_ATTRIBUTE_FIRST_NAME: "name",
    contact_pb2.LINK_ATTRIBUTE_LAST_NAME: "name",
}


class _Sides(NamedTuple):
    """Something before, and under the policy."""

    before: PersonEvidence
    after: PersonEvidence


async def link_policies(identity: IdentityClient, policy: IdentityPolicy) -> tuple[LinkPolicy, LinkPolicy]:
    """What links contacts by the policy in force, and by another one. Raises ConnectionError."""
    answer = await identity.judge_links(JudgeLinksRequest())
    return _link_policy(answer.rules_in_force), policy.links(_link_policy(answer.default_rules))


def _link_policy(message: LinkRulesMessage) -> LinkPolicy:
    keys = {"email": message.email_keys, "phone": message.phone_keys, "firstName": message.first_name_keys}
    keys |= {"lastName": message.last_name_keys}
    rules = LinkRules(
        order=tuple(map(Rule, message.rules)),
        max_identities_per_value=message.max_identities_per_value,
        max_devices_per_day=message.max_devices_per_day,
    )
    return LinkPolicy(message.policy_version, rules, AttributeNames(keys))


class LinkComparison:
    """Compares the links of identities, a page at a time. Memory holds a page, the counts and the listed changes."""

    def __init__(
        self, evidence: LinkEvidence, identity: IdentityClient, largest: int, *, is_of_sites: bool = False
    ) -> None:
        """`largest`: how many changes of each kind are listed.

        `is_of_sites`: they are of some websites, which see neither candidates nor what is not used, as in ContactLink.
        """
        self._evidence = evidence
        self._identity = identity
        self._largest = largest
        self._is_of_sites = is_of_sites
        self._outcomes: Counter[tuple[str, str, str, str, str]] = Counter()
        self._totals: Counter[str] = Counter()
        self._listed: dict[str, list[form.LinkChange]] = {"made": [], "undone": [], "moved": []}

    async def run(self, limit: int, pause: Callable[[float], Awaitable[None]]) -> form.Links:
        """Compare at most `limit` identities. `pause` is called after each page with the seconds that it took.

        Raises ConnectionError if identity does not answer.
        """
        self._evidence.count_givers()
        total, count = self._evidence.count(), 0
        for identities in self._evidence.identities(limit, _PER_CALL):
            began = time.monotonic()
            await self._compare(identities)
            count += len(identities)
            await pause(time.monotonic() - began)
        before, after = self._evidence.policies
        return form.Links(
            version_in_force=before.version,
            rules_before=[_RULES[rule] for rule in before.rules.order],
            rules_after=[_RULES[rule] for rule in after.rules.order],
            identities=total,
            not_compared=total - count,
            outcomes=[form.LinkOutcome(*words, number) for words, number in sorted(self._outcomes.items())],
            **{kind: form.LinkChanges(self._totals[kind], listed) for kind, listed in self._listed.items()},
        )

    async def _compare(self, identities: Sequence[str]) -> None:
        names = await self._identity.names_of(identities)
        found = {one: _Sides(*(self._evidence.of_person(names[one], side) for side in (0, 1))) for one in identities}
        before, after = self._evidence.policies
        has_same_order = before.rules.order == after.rules.order
        asked = {one: sides for one, sides in found.items() if not (has_same_order and sides.before == sides.after)}
        if not asked:
            return
        links = [
            await self._judge(policy, {one: sides[side] for one, sides in asked.items()})
            for side, policy in enumerate(self._evidence.policies)
        ]
        for sides, was, now in zip(asked.values(), *links, strict=True):
            self._count(was, now, _reason(sides))

    async def _judge(self, policy: LinkPolicy, evidence: Mapping[str, PersonEvidence]) -> Sequence[ContactLink]:
        request = JudgeLinksRequest(rules=map(contact_pb2.LinkRule.ValueType, policy.rules.order))
        for identity_id, of in evidence.items():
            keys = [
                EvidenceKey(
                    attribute=attribute,
                    key=key.key,
                    assurance=key.assurance,  # type: ignore[arg-type]  # the numbers are the same
                    generic_assurance=of.generic.get(key.key, 0),  # type: ignore[arg-type]
                )
                for attribute, key in of.match_keys.by_attribute().items()
            ]
            request.identities.append(IdentityEvidence(identity_id=identity_id, keys=keys, shared=of.is_shared))
        return (await self._identity.judge_links(request)).links

    def _count(self, was: ContactLink, now: ContactLink, reason: str) -> None:
        before, after = self._side(was), self._side(now)
        if (before.status, before.rule, before.contact_id) == (after.status, after.rule, after.contact_id):
            return
        self._outcomes[before.status, before.rule, after.status, after.rule, reason] += 1
        if before.contact_id == after.contact_id:
            return
        kind = "moved" if before.contact_id and after.contact_id else "made" if after.contact_id else "undone"
        self._totals[kind] += 1
        if len(self._listed[kind]) < self._largest:
            self._listed[kind].append(form.LinkChange(now.identity_id, reason, before, after))

    def _side(self, link: ContactLink) -> form.LinkSide:
        evidence = [] if self._is_of_sites else link.unused_evidence
        unused = [f"{_ATTRIBUTE_RULES[one.attribute_code]}: {_UNUSED[one.unused_reason]}" for one in evidence]
        return form.LinkSide(
            status=_STATUS[link.status],
            rule=_RULES.get(link.rule, ""),
            contact_id=link.contact_id,
            candidates=0 if self._is_of_sites else link.candidate_count,
            unused=[*dict.fromkeys(unused)],
        )


def _reason(sides: _Sides) -> str:
    """Why a link changes."""
    before, after = sides
    if _values(before) != _values(after):
        return "evidence"
    return "rules" if (before.generic, before.is_shared) == (after.generic, after.is_shared) else "sharing"


def _values(evidence: PersonEvidence) -> dict[str, tuple[str, int]]:
    return {attribute: (one.key, one.assurance) for attribute, one in evidence.match_keys.by_attribute().items()}
