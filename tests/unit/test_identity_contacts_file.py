"""Reading of a file of contacts, and the errors of invalid lines."""

from pathlib import Path
from typing import Any

import pytest
from footfall.identity.v1.contact_pb2 import Contact
from footfall_identity.contacts_file import MAX_LINE_LENGTH, BadLineError, ContactsFile, ContactsFileError

HEADER = "ContactId,EmailAddress,PhoneNumber,FirstName,LastName,Title\n"
ANN = Contact(
    contact_id="1", email_addresses=["ann@mail.example"], phone_numbers=["+49301"], first_name="Ann", last_name="Lee"
)


def read(folder: Path, text: str | bytes, encoding: str = "utf-8-sig") -> list[tuple[int, Any]]:
    """Return the line numbers with their contacts or errors."""
    file = folder / "contacts"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with file.open("rb") as opened:
        contacts = ContactsFile(opened, encoding)
        found = [*contacts]
        assert contacts.percent_read == 100
    return [(line, str(contact) if isinstance(contact, BadLineError) else contact) for line, contact in found]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEADER + "1,ann@mail.example,+49301,Ann,Lee,\n", id="as the contact server exports"),
        pytest.param(
            "\ufeff" + HEADER + "\n1,ann@mail.example,+49301,Ann,Lee,", id="byte order mark, no last line end"
        ),
        pytest.param(
            'Last Name;FIRST_NAME;phone;e-mail;contact-id\r\n"Lee";Ann; +49301 ;ann@mail.example;1\r\n',
            id="other names, order and separator",
        ),
        pytest.param(
            "id\tmail\ttel\tgivenName\tfamilyName\tNotes\n1\tann@mail.example\t+49301\tAnn\tLee\tx", id="tabs"
        ),
        pytest.param(
            '{"ContactId": 1, "EmailAddress": "ann@mail.example", "PhoneNumber": "+49301", "Notes": {}, '
            '"FirstName": "Ann", "LastName": "Lee", "Title": null}',
            id="JSON lines",
        ),
        pytest.param(
            ' \n{"contactId": "1", "emailAddresses": ["ann@mail.example"], "phoneNumbers": ["+49301"], '
            '"firstName": "Ann", "lastName": "Lee"}\n\n',
            id="JSON lines as the API writes contacts",
        ),
    ],
)
def test_a_contact_in_every_form(text: str, tmp_path: Path) -> None:
    assert [contact for _, contact in read(tmp_path, text)] == [ANN]


def test_values_may_be_lists_and_contain_delimiters(tmp_path: Path) -> None:
    text = HEADER + '1,"a@x.example; b@x.example;a@x.example",,"Ann\nMarie","Lee, ""jr.""",\n2,,,Bob,,\n'
    both = Contact(
        contact_id="1", email_addresses=["a@x.example", "b@x.example"], first_name="Ann\nMarie", last_name='Lee, "jr."'
    )
    assert read(tmp_path, text) == [(2, both), (4, Contact(contact_id="2", first_name="Bob"))]
    text = "id,mobile,tel,mail\n1,+491,+492,\n"
    assert read(tmp_path, text) == [(2, Contact(contact_id="1", phone_numbers=["+491", "+492"]))]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,a@x.example", "has 2 values, but the header has 6"),
        (",a@x.example,,,,", "has no ContactId"),
        ("1,,,,,", "has no value besides its ContactId"),
        ('1,"a@x.example"x,,,,', "is not valid CSV: ',' expected after '\"'"),
        (b"1,a@x.example,,\xfc,,", "is not in the encoding utf-8-sig"),
        ("1," + "a" * MAX_LINE_LENGTH, "is longer than 65,536 bytes"),
    ],
)
def test_an_invalid_csv_line_is_reported_and_the_next_is_read(line: str | bytes, problem: str, tmp_path: Path) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    good = b"2,,,Bob,,\n"
    found = read(tmp_path, HEADER.encode() + good + raw + b"\n" + good)
    bob = Contact(contact_id="2", first_name="Bob")
    assert found == [(2, bob), (3, problem), (4, bob)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"ContactId": "1"', "is not a JSON object"),
        ('["1"]', "is not a JSON object"),
        ("{}", "has no ContactId"),
        ('{"ContactId": "1", "FirstName": {}}', "first_name must be a string"),
        ('{"ContactId": "1", "EmailAddress": [true]}', "email_addresses must be a string"),
        ('{"EmailAddress": "a@x.example"}', "has no ContactId"),
        ("{" * MAX_LINE_LENGTH * 3, "is longer than 65,536 bytes"),
    ],
)
def test_an_invalid_json_line_is_reported_and_the_next_is_read(line: str, problem: str, tmp_path: Path) -> None:
    good = '{"ContactId": "2", "FirstName": "Bob"}\n'
    bob = Contact(contact_id="2", first_name="Bob")
    assert read(tmp_path, f"{good}{line}\n{good}") == [(1, bob), (2, problem), (3, bob)]


def test_an_unclosed_quotation_mark_does_not_fill_the_memory(tmp_path: Path) -> None:
    rest = "2,,,Bob,,\n" * 30_000
    found = read(tmp_path, HEADER + '1,"a@x.example,,,,\n' + rest)
    assert found[0] == (2, "is not valid CSV: field larger than field limit (131072)")
    assert {contact.contact_id for _, contact in found[1:]} == {"2"}
    assert len(found) > 15_000


@pytest.mark.parametrize(
    "text",
    ["", "1,ann@mail.example\n", "EmailAddress,Title\n", "ContactId\n1\n", "x" * MAX_LINE_LENGTH * 2, b"\xff\xfe"],
)
def test_a_file_without_contacts_is_rejected(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(ContactsFileError, match="line 1: "):
        read(tmp_path, text)


def test_another_encoding_is_read(tmp_path: Path) -> None:
    [(_, contact)] = read(tmp_path, (HEADER + "1,,,Jürgen,,\n").encode("cp1252"), "cp1252")
    assert contact.first_name == "Jürgen"


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "contacts.csv"
    file.write_text("ContactId,Title,Segment,MergeId\n")
    with file.open("rb") as opened:
        assert ContactsFile(opened, "utf-8").unknown == ("Segment", "MergeId")
