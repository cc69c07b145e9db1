"""JSON in answers as text instead of bytes, for callers that ask for it (`json_as_text`)."""

from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

Answer = TypeVar("Answer", bound=Message)


def json_as_asked(request: Message, answer: Answer) -> Answer:
    """The answer, with its JSON as text if the request asks for that. It does not become larger."""
    if getattr(request, "json_as_text", False):
        for message in _messages(answer):
            match message.DESCRIPTOR.name:
                case "StoredEvent":
                    message.data_text = _taken(message.event, "data_json")
                    message.proven_text = _taken(message.event, "proven_json")
                case "Interaction":
                    message.data_text = _taken(message, "data_json")
                case "Identity":
                    message.profile_text = _taken(message, "profile_json")
    return answer


def _messages(message: Any) -> Iterator[Any]:
    """A message, and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                yield from _messages(each)


def _taken(message: Any, field: str) -> str:
    text: str = getattr(message, field).decode(errors="replace")  # what could not be stored may be no UTF-8
    message.ClearField(field)
    return text
