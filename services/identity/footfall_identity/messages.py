"""Turns records into the messages of the contract."""

from collections.abc import Mapping

from footfall.event.v1 import event_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_identity.identity_record import IdentityRecord, profile_json, scope, text_value
from footfall_identity.visit_record import VisitRecord


def timestamp(milliseconds: int) -> Timestamp:
    """A moment, from milliseconds since the epoch."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def visitor(record: VisitRecord, contact_ids: Mapping[str, str]) -> visitor_pb2.Visitor:
    """The live state of a visit; `contact_ids` has the contacts of identities, where known."""
    stamp = record.fold.stamp
    return visitor_pb2.Visitor(
        visit_id=record.visit_id,
        global_visit_id=record.global_visit_id,
        site=record.site,
        state=visitor_pb2.VisitorState.ValueType(stamp.state),
        identity_id=stamp.identity,
        session_id=stamp.session_id,
        contact_id=contact_ids.get(stamp.identity, ""),
        last_event_time=timestamp(record.last_ms),
        assurance=event_pb2.Assurance.ValueType(stamp.assurance),
        start_time=timestamp(record.first_ms),
        url=record.url,
    )


def identity(record: IdentityRecord, *, copy_name: bool) -> identity_pb2.Identity:
    """An identity. One that no event has named has neither times nor scope."""
    message = identity_pb2.Identity(
        identity_id=record.identity_id,
        name=text_value(record.profile, "name") if copy_name else "",
        location=record.location,
        contact_id=record.contact_id,
        profile_json=profile_json(record),
    )
    state = scope(record)
    if record.newest is not None and state is not None and record.first_ms is not None:
        message.visit_scope = visitor_pb2.VisitorState.ValueType(state)
        message.last_visit_id = record.newest.visit_id
        message.create_time.CopyFrom(timestamp(record.first_ms))
        message.update_time.CopyFrom(timestamp(int(record.newest.at[:13])))
    return message
