"""The evidence for links of a trial is what identity has of the same events, in any order."""

import json
import random
from collections import Counter, defaultdict
from functools import reduce
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.attributes import said_by
from footfall_eventlog.devices import DeviceDay, merged_days, most_devices
from footfall_eventlog.identity_policy import IdentityPolicy, LinkPolicy, LinkRules
from footfall_eventlog.match_keys import MatchKeys
from footfall_history.policies.decisions import judge
from footfall_history.policies.link_evidence import LinkEvidence
from footfall_timeline import Assurance, Kind, order_key

DAY_MS = 86_400_000
PEOPLE = ["ann", "bob", "cleo", "dana@mail.example"]
POLICY = LinkPolicy(rules=LinkRules(max_identities_per_value=2, max_devices_per_day=4))


def stored(chance: random.Random, number: int) -> dict[str, Any]:
    """A SignIn or UserInfo as history stores it."""
    at_ms = (20_000 + chance.randint(0, 12)) * DAY_MS + chance.randint(0, 5)
    is_proven = chance.random() < 0.3
    values = {"email": f"{chance.choice('abc')}@mail.example", "phone": f"+49 30 {1_000_000 + chance.randint(0, 1)}"}
    said = {key: value for key, value in values.items() if chance.random() < 0.5}
    name, kind = chance.choice([("SignIn", Kind.SIGN_IN), ("UserInfo", Kind.USER_INFO)])
    is_proven &= name == "SignIn"
    person = chance.choice(PEOPLE)
    return {
        "visit_id": f"visit {chance.randint(0, 3)}",
        "event_id": f"event {number}",
        "order_key": order_key(at_ms, f"event {number}"),
        "site": "shop",
        "event_name": name,
        "data_json": json.dumps({"userID": person} | said).encode(),
        "proven_json": json.dumps({"sub": person} | said).encode() if is_proven else b"",
        "transition": kind.value,
        "assurance": (Assurance.PROVEN if is_proven else Assurance.CLAIMED).value,
        "names_identity_id": person,
        "global_visit_id": f"device {chance.randint(0, 6)}",
    }


@pytest.mark.parametrize("seed", range(20))
def test_the_evidence_is_that_of_the_events_in_any_order(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - traffic is no secret
    documents = [stored(chance, number) for number in range(chance.choice([3, 30, 150]))]
    policy = IdentityPolicy().of_site
    judged = [judge(document, policy, ()) for document in documents]
    keys: defaultdict[str, list[MatchKeys]] = defaultdict(list)
    days: defaultdict[str, list[DeviceDay]] = defaultdict(list)
    for document, one in zip(documents, judged, strict=True):
        transition = one.transition(one.before)
        assert transition
        fields = ("visit_id", "global_visit_id", "data_json", "proven_json")
        event = Event(**{field: document[field] for field in fields})
        said = said_by(event, transition, POLICY.names, "DE")
        keys[transition.identity].append(said.match_keys)
        days[transition.identity] += [said.device] if said.device else []
    merged = {person: reduce(MatchKeys.merged, of_person) for person, of_person in keys.items()}
    given = Counter(key for one in merged.values() for key in one.compared)
    proven = Counter(key for one in merged.values() for key in one.proven)
    arriving = [*zip(documents, judged, strict=True)]
    arriving += chance.sample(arriving, len(arriving) // 3)
    chance.shuffle(arriving)
    with LinkEvidence(POLICY, POLICY, "DE") as evidence:
        evidence.add(arriving)
        evidence.count_givers()
        assert (evidence.count(), {one for page in evidence.identities(9, 2) for one in page}) == (len(keys), {*keys})
        for person, match_keys in merged.items():
            generic = {
                key: (Assurance.PROVEN if proven[key] > 2 else Assurance.CLAIMED).value
                for key in match_keys.compared
                if given[key] > 2
            }
            expected = match_keys, generic, most_devices(merged_days(days[person])) > 4
            assert evidence.of_person([person], 0) == evidence.of_person([person], 1) == expected
