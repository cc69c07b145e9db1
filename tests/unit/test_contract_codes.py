"""Closed sets that answers give as text and as enum: both have the same values, and each text its own enum value."""

from typing import Final

import pytest
from footfall.event.v1.event_pb2 import AssuranceReason
from footfall.history.v1.visit_pb2 import TransitionRule
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1.contact_pb2 import LinkAttribute
from footfall_collector.admission import _UNPROVEN
from footfall_collector.sign_in_token import TokenVerdict
from footfall_history.queries.resources import RULE_CODES
from footfall_history.storage import assurance_reason_code, stored_event
from footfall_identity.contact_record import ContactResult
from footfall_identity.matching import ATTRIBUTES
from footfall_identity.messages import ATTRIBUTE_CODES

IMPORTED: Final = "imported"
REASONS: Final = {*map(str, TokenVerdict), *(reason for _, reason in _UNPROVEN.values() if reason), IMPORTED}


def test_each_assurance_reason_has_a_code_and_each_code_a_reason() -> None:
    known = {name: number for name, number in AssuranceReason.items() if number}
    assert {f"ASSURANCE_REASON_{reason.upper()}": assurance_reason_code(reason) for reason in REASONS} == known


def test_results_of_contacts_have_the_numbers_of_the_contract() -> None:
    given = {f"CONTACT_RESULT_{result.name}": result for result in ContactResult if result.name != "REQUEST_ID_USED"}
    assert given | {"CONTACT_RESULT_UNSPECIFIED": 0, "CONTACT_RESULT_INVALID": 5} == dict(
        contact_pb2.ContactResult.items()
    )


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_an_event_in_an_answer_has_its_reason_as_text_and_as_code(reason: str) -> None:
    document = {"visit_id": "v", "event_id": "e", "order_key": f"{1:013d}e", "received_ms": 1, "state": 2, "rev": 1}
    event = stored_event(document | {"assurance_reason": reason}).event
    assert event.assurance_reason == reason
    assert AssuranceReason.Name(event.assurance_reason_code) == f"ASSURANCE_REASON_{reason.upper()}"


@pytest.mark.parametrize("reason", ["", "of_a_later_version"])
def test_a_reason_that_is_not_known_keeps_its_text_and_has_no_code(reason: str) -> None:
    assert assurance_reason_code(reason) == AssuranceReason.ASSURANCE_REASON_UNSPECIFIED


def test_each_rule_has_a_code_and_each_code_a_rule() -> None:
    known = {name: number for name, number in TransitionRule.items() if number}
    codes = {f"TRANSITION_RULE_{rule.value.replace('.', '_').upper()}": code for rule, code in RULE_CODES.items()}
    assert codes == known


def test_each_attribute_has_a_code_and_each_code_an_attribute() -> None:
    known = {name: number for name, number in LinkAttribute.items() if number}
    names = {name.removeprefix("LINK_ATTRIBUTE_").title().replace("_", ""): number for name, number in known.items()}
    assert names == ATTRIBUTE_CODES
    assert {attribute for compared in ATTRIBUTES.values() for attribute in compared} == ATTRIBUTE_CODES.keys()
