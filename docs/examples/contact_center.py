"""A client of a contact center. Prints one JSON object a line.

    contact_center.py pop phone +4930901820    who calls: also email, contact_id, identity_id and visit_id
    contact_center.py chat VISIT_ID            who is in this chat, and what they did in the visit
    contact_center.py watch [CONTACT_ID ...]   all visitors or these contacts, then each change

A call is reported by this command. With a disposition it has ended.

    contact_center.py record INTERACTION_ID VISIT_ID AGENT [DISPOSITION]

COLLECTOR_TARGET, IDENTITY_TARGET and HISTORY_TARGET are host:port. With TLS, CA_FILE is the authority of the services.
With mutual TLS, CERT_FILE and KEY_FILE are the certificate and key of this client. All files are PEM.
"""

import json
import os
import sys
import time
from pathlib import Path

import grpc
from footfall.collector.v1 import collector_service_pb2
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.event.v1 import interaction_pb2
from footfall.history.v1 import customer_context_pb2, history_service_pb2
from footfall.history.v1 import interaction_pb2 as history_interaction_pb2
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2, visitor_pb2
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships none

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # without these two up to 2 minutes pass before the next attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
DEADLINE_S = 2
GZIP = (("x-answer-encoding", "gzip"),)
LASTING = {"INVALID_FIELD", "MALFORMED_MESSAGE", "MESSAGE_TOO_LARGE", "NOT_IMPLEMENTED", "ROLE_NOT_ALLOWED"}
"""Reasons of errors that come again, however often the call is repeated."""
ROWS = {visitor_pb2.VISITOR_PRESENCE_LEFT: "grey", visitor_pb2.VISITOR_PRESENCE_ENDED: "dropped"}
"""What the list of a team does with a visitor who is not on the website."""


def open_channel(target: str) -> grpc.Channel:
    """One channel for each service, for the whole life of the process."""

    def read(name: str) -> bytes | None:
        return Path(os.environ[name]).read_bytes() if name in os.environ else None

    if "CA_FILE" not in os.environ:
        return grpc.insecure_channel(target, OPTIONS)
    credentials = grpc.ssl_channel_credentials(read("CA_FILE"), read("KEY_FILE"), read("CERT_FILE"))
    return grpc.secure_channel(target, credentials, OPTIONS)


def pop(history: HistoryServiceStub, known: str, value: str) -> None:
    """Show a caller by telephone number, e-mail address, contact, identity or visit."""
    request = history_service_pb2.GetCustomerContextRequest(json_as_text=True)
    setattr(request, known, value)
    found = history.GetCustomerContext(request, timeout=DEADLINE_S, metadata=GZIP)
    show(
        status=customer_context_pb2.ContextStatus.Name(found.status),
        explanation=found.explanation,
        contact=found.contact.contact_id,
        candidates=[candidate.contact_id for candidate in found.candidates],
        visits=[visit.visitor.visit_id for visit in found.visits],
        pages=[page.page.url for page in found.pages],
        events=[[event.event.event.event_name, json.loads(event.event.data_text or "{}")] for event in found.events],
        interactions=[interaction_fields(interaction) for interaction in found.interactions],
        # Such a part is not known now. Show it as missing, not as empty.
        unavailable=[customer_context_pb2.ContextPart.Name(part) for part in found.unavailable_parts],
    )


def chat(identity: IdentityServiceStub, history: HistoryServiceStub, visit_id: str) -> None:
    """Show the visitor of a chat. The page that opens the chat knows the visit's id."""
    request = identity_service_pb2.GetVisitorRequest(visit_id=visit_id)
    show(**fields_of(identity.GetVisitor(request, timeout=DEADLINE_S).visitor))
    last_pages = history_service_pb2.ListPagesRequest(visit_id=visit_id, order_by="event_time desc", page_size=10)
    reported = history_service_pb2.ListInteractionsRequest(visit_id=visit_id)
    urls, interactions = [], []
    try:
        urls = [page.url for page in history.ListPages(last_pages, timeout=DEADLINE_S).pages]
        interactions = list(history.ListInteractions(reported, timeout=DEADLINE_S).interactions)
    except grpc.RpcError as error:
        if reason_of(error) != "RESOURCE_NOT_FOUND":  # history stores a new visit within about two seconds
            raise
    show(pages=urls, interactions=[interaction_fields(interaction) for interaction in interactions])


def watch(identity: IdentityServiceStub, *contact_ids: str) -> None:
    """Show the visitors on the website, then each change: of all visitors, or of contacts with each page they enter.

    No change is missed when the stream ends or identity is restarted.
    """
    request = identity_service_pb2.WatchVisitorsRequest(
        list_first=True, announce_progress=True, contact_ids=contact_ids, include_pages=bool(contact_ids)
    )
    while True:
        if not request.resume_token:
            show(row="all dropped")  # the list follows, also when it comes again
        try:
            for message in identity.WatchVisitors(request):
                if message.resume_token:  # a message of the list has none
                    request.resume_token = message.resume_token
                if message.HasField("visitor"):
                    is_wanted = not contact_ids or message.visitor.contact_id in contact_ids
                    is_wanted = is_wanted and not message.visitor.staff
                    row = ROWS.get(message.visitor.presence, "shown") if is_wanted else "dropped"
                    changes = [identity_service_pb2.VisitorChange.Name(change) for change in message.changes]
                    show(row=row, changes=changes, **fields_of(message.visitor))
        except grpc.RpcError as error:
            reason = reason_of(error)
            if reason in LASTING:
                raise
            if reason == "RESUME_TOKEN_EXPIRED":
                request.resume_token = ""  # list again
            print(f"The stream has ended: {reason or error.code().name}", file=sys.stderr)
        time.sleep(1)


def record(
    collector: CollectorServiceStub, interaction_id: str, visit_id: str, agent: str, disposition: str = ""
) -> None:
    """Report a call about a visit: when it begins, when another agent takes it, and with a disposition when it ends."""
    update = interaction_pb2.InteractionUpdate(
        interaction_id=interaction_id,
        visit_id=visit_id,
        channel=interaction_pb2.INTERACTION_CHANNEL_VOICE,
        agent=agent,
    )
    update.update_time.FromMilliseconds(time.time_ns() // 1_000_000)  # the same when the call is repeated
    if disposition:
        update.disposition = disposition
        update.end_time.CopyFrom(update.update_time)
    request = collector_service_pb2.RecordInteractionRequest(interaction=update)
    stored = collector.RecordInteraction(request, timeout=DEADLINE_S).interaction
    show(interaction=stored.interaction_id, site=stored.site)


def reason_of(error: grpc.RpcError) -> str:
    """The reason in google.rpc.ErrorInfo; empty for an error of gRPC itself, such as a lost connection."""
    info = error_details_pb2.ErrorInfo()
    for item in error.trailing_metadata() or ():
        if item.key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(item.value).details:
                detail.Unpack(info)
    return str(info.reason)


def fields_of(visitor: visitor_pb2.Visitor) -> dict[str, object]:
    """Who a visitor is, and where."""
    return {
        "visit": visitor.visit_id,
        "state": visitor_pb2.VisitorState.Name(visitor.state),
        "identity": visitor.identity_id,
        "contact": visitor.contact_id,
        "contact_status": visitor_pb2.ContactStatus.Name(visitor.contact_status),
        "presence": visitor_pb2.VisitorPresence.Name(visitor.presence),
        "leave_ms": visitor.leave_time.ToMilliseconds() if visitor.HasField("leave_time") else None,
        "url": visitor.url,
    }


def interaction_fields(interaction: history_interaction_pb2.Interaction) -> list[str]:
    """Which interaction, the agent, and the disposition."""
    return [interaction.interaction_id, interaction.agent, interaction.disposition]


def show(**fields: object) -> None:
    """Print one line."""
    print(json.dumps(fields), flush=True)


def main() -> None:
    """Run the command of the command line."""
    command, *arguments = sys.argv[1:]
    with (
        open_channel(os.environ["COLLECTOR_TARGET"]) as collector_channel,
        open_channel(os.environ["IDENTITY_TARGET"]) as identity_channel,
        open_channel(os.environ["HISTORY_TARGET"]) as history_channel,
    ):
        identity, history = IdentityServiceStub(identity_channel), HistoryServiceStub(history_channel)
        if command == "pop":
            pop(history, *arguments)
        elif command == "chat":
            chat(identity, history, *arguments)
        elif command == "record":
            record(CollectorServiceStub(collector_channel), *arguments)
        else:
            watch(identity, *arguments)


if __name__ == "__main__":
    main()
