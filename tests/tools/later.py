"""Turns messages into those of a later version, with a field that this version does not know."""

from typing import TypeVar

from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)

FIELD = b"\x82\x7d\x05later"
"""On the wire: field 2000, which no message of ours has, with the text `later`."""


def later(message: AnyMessage) -> AnyMessage:
    """The message with that field, as it is after parsing."""
    return type(message).FromString(message.SerializeToString() + FIELD)


def knows_later(message: Message) -> bool:
    """Whether the field is still there, at this level."""
    alone = type(message)()
    alone.CopyFrom(message)
    for field, _ in message.ListFields():
        alone.ClearField(field.name)
    return alone.SerializeToString() == FIELD
