"""Turns the type of a protobuf message into random well-formed messages of it, serialized."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_DEEPEST = 3
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
}


def serialized(descriptor: Descriptor, texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Messages of this type, whose strings are taken from `texts`, in the form they are sent in."""
    return _messages(descriptor, texts, _DEEPEST).map(lambda message: bytes(message.SerializeToString()))


def _messages(descriptor: Descriptor, texts: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[Any]:
    values = {
        field.name: _repeated(field, value) if field.is_repeated else value
        for field in descriptor.fields
        if (value := _values(field, texts, depth)) is not None
    }
    return st.fixed_dictionaries({}, optional=values).map(_builder(descriptor))


def _repeated(field: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return st.lists(values, max_size=3).map(lambda entries: {entry.key: entry.value for entry in entries})
    return st.lists(values, max_size=3)


def _builder(descriptor: Descriptor) -> Callable[[dict[str, Any]], Any]:
    message_class = GetMessageClass(descriptor)

    def build(values: dict[str, Any]) -> Any:
        return message_class(**values)

    return build


def _values(field: Any, texts: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[Any] | None:
    """Values of a field; None for messages that are nested too deeply."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return _messages(field.message_type, texts, depth - 1) if depth else None
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from(sorted(field.enum_type.values_by_number)) | st.integers(-(2**31), 2**31 - 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64) | st.sampled_from([b"{}", b'{"userID":"ann"}', b'{"token":7}', b"[", b"null"])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return texts
    return _INTEGERS[field.cpp_type]
