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

from footfall.collector.v1 import collector_service_pb2
from footfall.event.v1 import interaction_pb2
from footfall.history.v1 import customer_context_pb2, history_service_pb2
from footfall.history.v1 import interaction_pb2 as history_interaction_pb2
from footfall.identity.v1 import identity_service_pb2, visitor_pb2
from footfall_client import Footfall, NotFoundError, Tls

GZIP = (("x-answer-encoding", "gzip"),)


def connect() -> Footfall:
    """One client, for the whole life of the process."""
    files = [os.environ[name] for name in ("CA_FILE", "CERT_FILE", "KEY_FILE") if name in os.environ]
    return Footfall(
        collector=os.environ["COLLECTOR_TARGET"],
        identity=os.environ["IDENTITY_TARGET"],
        history=os.environ["HISTORY_TARGET"],
        tls=Tls(*files) if files else None,
    )


def pop(footfall: Footfall, known: str, value: str) -> None:
    """Show a caller by telephone number, e-mail address, contact, identity or visit."""
    request = history_service_pb2.GetCustomerContextRequest(json_as_text=True)
    setattr(request, known, value)
    found = footfall.history.GetCustomerContext(request, timeout=2, metadata=GZIP)
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


def chat(footfall: Footfall, visit_id: str) -> None:
    """Show the visitor of a chat. The page that opens the chat knows the visit's id."""
    request = identity_service_pb2.GetVisitorRequest(visit_id=visit_id)
    show(**fields_of(footfall.identity.GetVisitor(request).visitor))
    last_pages = history_service_pb2.ListPagesRequest(visit_id=visit_id, order_by="event_time desc", page_size=10)
    reported = history_service_pb2.ListInteractionsRequest(visit_id=visit_id)
    urls, interactions = [], []
    try:
        urls = [page.url for page in footfall.history.ListPages(last_pages).pages]
        for found in footfall.pages(footfall.history.ListInteractions, reported):
            interactions += [interaction_fields(interaction) for interaction in found.interactions]
    except NotFoundError:
        pass  # history stores a new visit within about two seconds
    show(pages=urls, interactions=interactions)


def watch(footfall: Footfall, *contact_ids: str) -> None:
    """Show the visitors on the website, then each change: of all visitors, or of contacts with each page they enter.

    No change is missed when the stream ends or identity is restarted.
    """
    request = identity_service_pb2.WatchVisitorsRequest(contact_ids=contact_ids, include_pages=bool(contact_ids))
    for change in footfall.live_visitors(request):
        has_left = change.visitor.presence == visitor_pb2.VISITOR_PRESENCE_LEFT
        row = "dropped" if change.now is None else "grey" if has_left else "shown"
        changes = [identity_service_pb2.VisitorChange.Name(one) for one in change.changes]
        show(row=row, changes=changes, **fields_of(change.visitor))


def record(footfall: Footfall, interaction_id: str, visit_id: str, agent: str, disposition: str = "") -> None:
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
    stored = footfall.collector.RecordInteraction(request).interaction
    show(interaction=stored.interaction_id, site=stored.site)


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
    with connect() as footfall:
        if command == "pop":
            pop(footfall, *arguments)
        elif command == "chat":
            chat(footfall, *arguments)
        elif command == "record":
            record(footfall, *arguments)
        else:
            watch(footfall, *arguments)


if __name__ == "__main__":
    main()
