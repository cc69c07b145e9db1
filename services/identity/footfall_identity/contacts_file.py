"""Turns a file of contacts, CSV or JSON lines, into contacts, and into what is wrong with lines that hold none.

It holds one contact at a time, of a size that is bounded.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader
from typing import Any, Final

import msgspec
from footfall.identity.v1.contact_pb2 import Contact

from footfall_identity.attributes import USUAL_NAMES

MAX_LINE_LENGTH: Final = 64 * 1024

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "contact_id": ("contactId", "id"),
    "email_addresses": (*USUAL_NAMES["email"], "emailAddresses"),
    "phone_numbers": (*USUAL_NAMES["phone"], "phoneNumbers"),
    "first_name": USUAL_NAMES["firstName"],
    "last_name": USUAL_NAMES["lastName"],
    "title": ("title",),
}
"""By field of a contact what files call it, in any case; spaces, dashes and underscores do not count."""

_FIELDS: Final = {name.casefold(): field for field, names in NAMES.items() for name in names}
_NOT_IN_NAMES: Final = str.maketrans("", "", " _-")
_LISTS: Final = frozenset({"email_addresses", "phone_numbers"})
_DELIMITERS: Final = ",;\t"

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode

_Said = Iterable[tuple[str, Any]]
"""Fields of a contact ("": of nothing known) with what a line says of them. None: a blank line."""


class ContactsFileError(Exception):
    """Nothing in the file can be read; the text says why."""


class BadLineError(Exception):
    """A line holds no contact; the text says why, and quotes nothing of it."""


class ContactsFile:
    """The contacts of a file, each with the number of its (first) line, or what is wrong with that. Reading blocks.

    A file that begins with `{` is JSON lines, any other is CSV with a header. `unknown` are columns that are not read.

    Raises ContactsFileError: the header names no contacts.
    """

    def __init__(self, file: BufferedReader, encoding: str) -> None:
        self.unknown: tuple[str, ...] = ()
        self._size = os.fstat(file.fileno()).st_size
        self._lines = _Lines(file, encoding)
        is_json = file.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        self._read = self._read_json if is_json else self._csv_reader()

    @property
    def percent_read(self) -> int | None:
        """How much of the file has been read; None of what has no size, as a pipe."""
        return 100 * self._lines.bytes_read // self._size if self._size else None

    def __iter__(self) -> Iterator[tuple[int, Contact | BadLineError]]:
        while True:
            number = self._lines.number + 1
            try:
                if (said := self._read()) is not None:
                    yield number, _contact(said)
            except BadLineError as error:
                yield number, error
            except StopIteration:
                return

    def _read_json(self) -> _Said | None:
        text = next(self._lines)
        if not text.strip():
            return None
        try:
            given = _decode_object(text)
        except (ValueError, RecursionError):
            raise BadLineError("is no JSON object") from None
        return [(_field(name), value) for name, value in given.items()]

    def _csv_reader(self) -> Callable[[], _Said | None]:
        try:
            header = next(self._lines, "")
        except BadLineError as error:
            raise ContactsFileError(f"line 1: {error}") from None
        delimiter = max(_DELIMITERS, key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        fields = [_field(name) for name in names]
        self.unknown = tuple(name for name, field in zip(names, fields, strict=True) if not field)
        if "contact_id" not in fields or len({*fields} - {""}) == 1:
            raise ContactsFileError("line 1: must name the columns: ContactId, and EmailAddress or others")
        rows = csv.reader(self._lines, delimiter=delimiter, strict=True)

        def read() -> _Said | None:
            try:
                row = next(rows)
            except csv.Error as error:
                raise BadLineError(f"is no CSV: {error}") from None
            if row and len(row) != len(fields):
                raise BadLineError(f"has {len(row)} values, the header {len(fields)}")
            return [*zip(fields, row, strict=True)] if row else None

        return read


class _Lines:
    """The lines of a file. Goes on behind one for which it has raised BadLineError, as no generator can."""

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
    """The field that a file calls so, "" for none."""
    return _FIELDS.get(name.translate(_NOT_IN_NAMES).casefold(), "")


def _contact(said: _Said) -> Contact:
    """A contact of all addresses and numbers that are said, and of each other field the first text."""
    texts: dict[str, list[str]] = {field: [] for field in NAMES}
    for field, value in said:
        if field:
            texts[field] += _texts(field, value)
    if not texts["contact_id"]:
        raise BadLineError("has no ContactId")
    if sum(map(bool, texts.values())) == 1:
        raise BadLineError("says nothing of the contact but its ContactId")
    first = {field: found[0] for field, found in texts.items() if found}
    return Contact(
        contact_id=first["contact_id"],
        email_addresses=dict.fromkeys(texts["email_addresses"]),
        phone_numbers=dict.fromkeys(texts["phone_numbers"]),
        first_name=first.get("first_name", ""),
        last_name=first.get("last_name", ""),
        title=first.get("title", ""),
    )


def _texts(field: str, value: Any) -> list[str]:
    """The texts that a value holds. One that holds several addresses or numbers has semicolons between them."""
    if value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _texts(field, one)]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadLineError(f"{field} must be a text")
    parts = str(value).split(";") if field in _LISTS else [str(value)]
    return [text for part in parts if (text := part.strip())]
