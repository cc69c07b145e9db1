"""Reader of a file of contacts, CSV or JSON lines, with an error for each invalid line.

It reads one contact at a time, so the memory is bounded.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from typing import Any, Final

import msgspec
from footfall.identity.v1.contact_pb2 import Contact
from footfall_eventlog.attributes import USUAL_NAMES
from footfall_eventlog.match_keys import email_key, phone_key

MAX_LINE_LENGTH: Final = 64 * 1024

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "contact_id": ("contactId", "id"),
    "email_addresses": (*USUAL_NAMES["email"], "emailAddresses"),
    "phone_numbers": (*USUAL_NAMES["phone"], "phoneNumbers"),
    "first_name": USUAL_NAMES["firstName"],
    "last_name": USUAL_NAMES["lastName"],
    "title": ("title",),
}
"""Names of each field of a contact in files, ignoring case, spaces, dashes and underscores."""

_FIELDS: Final = {name.casefold(): field for field, names in NAMES.items() for name in names}
_NOT_IN_NAMES: Final = str.maketrans("", "", " _-")
_LISTS: Final = frozenset({"email_addresses", "phone_numbers"})
_DELIMITERS: Final = ",;\t"

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode

_FieldValues = Iterable[tuple[str, Any]]
"""The values of a line with the fields of a contact ("": unknown name)."""


class ContactsFileError(Exception):
    """The file has no usable header; the text says why."""


class BadLineError(Exception):
    """A line is invalid; the text says why, without quoting it."""


class ContactsFile:
    """Iterates over (line number, contact or BadLineError). Reading blocks.

    A file that begins with `{` is read as JSON lines, any other as CSV with a header. `unknown` are the names of
    columns that are ignored. Raises ContactsFileError for a header without contacts.
    """

    def __init__(self, file: BufferedReader, encoding: str) -> None:
        self.unknown: tuple[str, ...] = ()
        self._size = os.fstat(file.fileno()).st_size
        self._lines = _Lines(file, encoding)
        is_json = file.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        self._read = self._read_json if is_json else self._csv_reader()

    @property
    def percent_read(self) -> int | None:
        """The percentage of the file that has been read; None if the size is unknown, as for a pipe."""
        return 100 * self._lines.bytes_read // self._size if self._size else None

    def __iter__(self) -> Iterator[tuple[int, Contact | BadLineError]]:
        while True:
            number = self._lines.number + 1
            try:
                if (values := self._read()) is not None:
                    yield number, _contact(values)
            except BadLineError as error:
                yield number, error
            except StopIteration:
                return

    def _read_json(self) -> _FieldValues | None:
        text = next(self._lines)
        if not text.strip():
            return None
        try:
            given = _decode_object(text)
        except (ValueError, RecursionError):
            raise BadLineError("is not a JSON object") from None
        return [(_field(name), value) for name, value in given.items()]

    def _csv_reader(self) -> Callable[[], _FieldValues | None]:
        try:
            header = next(self._lines, "")
        except BadLineError as error:
            raise ContactsFileError(f"line 1: {error}") from None
        delimiter = max(_DELIMITERS, key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        fields = [_field(name) for name in names]
        self.unknown = tuple(name for name, field in zip(names, fields, strict=True) if not field)
        if "contact_id" not in fields or len({*fields} - {""}) == 1:
            raise ContactsFileError(
                "line 1: must be a header with ContactId and at least one more known column, such as EmailAddress"
            )
        rows = csv.reader(self._lines, delimiter=delimiter, strict=True)

        def read() -> _FieldValues | None:
            try:
                row = next(rows)
            except csv.Error as error:
                raise BadLineError(f"is not valid CSV: {error}") from None
            if row and len(row) != len(fields):
                raise BadLineError(f"has {len(row)} values, but the header has {len(fields)}")
            return [*zip(fields, row, strict=True)] if row else None

        return read


class _Lines:
    """The decoded lines of a file. Unlike a generator, it continues after a BadLineError."""

    def __init__(self, file: BufferedReader, encoding: str) -> None:
        self.number = self.bytes_read = 0
        self._file = file
        self._encoding = encoding

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._read()
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > MAX_LINE_LENGTH:
            while raw and not raw.endswith(b"\n"):
                raw = self._read()
            raise BadLineError(f"is longer than {MAX_LINE_LENGTH:,} bytes")
        try:
            return raw.decode(self._encoding)
        except UnicodeDecodeError:
            raise BadLineError(f"is not in the encoding {self._encoding}") from None

    def _read(self) -> bytes:
        raw = self._file.readline(MAX_LINE_LENGTH + 1)
        self.bytes_read += len(raw)
        return raw


def _field(name: str) -> str:
    """Return the field for a name in a file, "" for an unknown name."""
    return _FIELDS.get(name.translate(_NOT_IN_NAMES).casefold(), "")


def _contact(values: _FieldValues) -> Contact:
    """Build a contact from all addresses and numbers of a line, and the first text of each other field."""
    texts: dict[str, list[str]] = {field: [] for field in NAMES}
    for field, value in values:
        if field:
            texts[field] += _texts(field, value)
    if not texts["contact_id"]:
        raise BadLineError("has no ContactId")
    if sum(map(bool, texts.values())) == 1:
        raise BadLineError("has no value besides its ContactId")
    first = {field: found[0] for field, found in texts.items() if found}
    return Contact(
        contact_id=first["contact_id"],
        email_addresses=_different(texts["email_addresses"], email_key),
        phone_numbers=_different(texts["phone_numbers"], lambda text: phone_key(text, None)),
        first_name=first.get("first_name", ""),
        last_name=first.get("last_name", ""),
        title=first.get("title", ""),
    )


def _different(texts: Sequence[str], key: Callable[[str], str]) -> Iterable[str]:
    """Return the texts without those that are another spelling of an earlier one."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault((len(texts) > 1 and key(text)) or text, text)
    return first.values()


def _texts(field: str, value: Any) -> list[str]:
    """Return the texts in a value. Several addresses or numbers are separated by semicolons."""
    if value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _texts(field, one)]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadLineError(f"{field} must be a string")
    parts = str(value).split(";") if field in _LISTS else [str(value)]
    return [text for part in parts if (text := part.strip())]
