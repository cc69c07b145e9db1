"""English sentences about how certain the contact of a customer is, for people."""

from collections.abc import Mapping
from typing import Final

from footfall.event.v1 import event_pb2
from footfall.history.v1 import customer_context_pb2 as parts
from footfall.history.v1 import history_service_pb2 as pb
from footfall.identity.v1 import contact_pb2

_GIVEN: Final[Mapping[str, str]] = {
    "phone": "telephone number",
    "email": "e-mail address",
    "contact_id": "id",
}
_RULES: Final[Mapping[int, str]] = {
    contact_pb2.LINK_RULE_EMAIL_ADDRESS: "the e-mail address",
    contact_pb2.LINK_RULE_PHONE_NUMBER: "the telephone number",
    contact_pb2.LINK_RULE_NAME: "the name",
}
_ASSURANCES: Final[Mapping[int, str]] = {
    event_pb2.ASSURANCE_PROVEN: ", which a token of the website proves",
    event_pb2.ASSURANCE_CLAIMED: ", which the website has given without a proof",
}


def explanation(request: pb.GetCustomerContextRequest, answer: pb.GetCustomerContextResponse) -> str:
    """How certain an answer is. Quotes nothing from request or answer."""
    given = _GIVEN.get(request.WhichOneof("customer") or "", "")
    rule, proof = _RULES.get(answer.rule, "the data"), _ASSURANCES.get(answer.assurance, "")
    match answer.status:
        case parts.CONTEXT_STATUS_LINKED if given:
            return f"One contact has this {given}."
        case parts.CONTEXT_STATUS_LINKED if answer.rule == contact_pb2.LINK_RULE_MANUAL:
            return "The user is linked to this contact by the decision of a person."
        case parts.CONTEXT_STATUS_LINKED:
            return f"The user is linked to this contact by {rule}{proof}."
        case parts.CONTEXT_STATUS_AMBIGUOUS if given:
            return f"Several contacts have this {given}."
        case parts.CONTEXT_STATUS_AMBIGUOUS:
            return f"Several contacts match {rule} of the user."
        case parts.CONTEXT_STATUS_UNLINKED if answer.identities:
            return "The user is known, but not linked to a contact."
        case parts.CONTEXT_STATUS_UNLINKED:
            return "The visitor is anonymous: no event has named a user."
        case parts.CONTEXT_STATUS_NOT_FOUND if request.HasField("code"):
            return "No visit has this code, or it was used, or it has expired."
        case parts.CONTEXT_STATUS_NOT_FOUND if given:
            return f"No contact has this {given}."
        case parts.CONTEXT_STATUS_NOT_FOUND:
            return "Nothing is known of this user or visit."
        case _:
            return "The identity service does not answer, so the contact is not known."
