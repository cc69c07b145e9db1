"""The command `footfall-contacts import` with a running identity service."""

from pathlib import Path
from typing import Any

import pytest
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import Contact

from tests.tools.contacts import imported
from tests.tools.eventually import eventually
from tests.tools.identity import admitted, append, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

HEADER = "ContactId,EmailAddress,PhoneNumber,FirstName,LastName,Title\n"


async def contact(stub: Any, contact_id: str) -> Contact:
    found: Contact = (await stub.GetContact(pb.GetContactRequest(contact_id=contact_id))).contact
    return found


async def linked_contacts(stub: Any, identity_id: str) -> list[str]:
    """Return the contacts that an identity was linked to, oldest first, "" for none."""
    answer = await stub.ListContactLinks(pb.ListContactLinksRequest(identity_id=identity_id))
    return [link.contact_id for link in sorted(answer.links, key=lambda link: link.create_time.ToNanoseconds())]


async def test_an_import_stores_and_links_contacts_and_can_be_repeated(
    running_identity: Running, redis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "contacts.csv"
    lines = [f"c{number},p{number}@mail.example,+49301{number:06},Ann,Lee {number},Dr." for number in range(200)]
    lines[10], lines[100] = "c10,nobody,,,,", "too,few"
    file.write_text(HEADER + "\n".join(lines) + "\nc7,new@mail.example,,Bob,,\n")
    signed_in = [
        admitted("SignIn", new_id(), now_ms(), f"user{n}", data={"email": f"P{n}@mail.example"}) for n in (5, 7)
    ]
    async with running_identity(IDENTITY_MONGO_TIMEOUT_MS=20_000) as identity, identity.stub() as stub:
        await append(redis, *signed_in)

        async def are_known() -> bool:
            answer = await stub.BatchGetIdentities(pb.BatchGetIdentitiesRequest(identity_ids=["user5", "user7"]))
            return len(answer.identities) == 2

        await eventually(are_known, timeout=20)
        ended = await imported(identity.target, str(file))
        assert (ended.code, ended.said) == (1, "199 contacts stored, 2 lines skipped\n")
        assert {line for line in ended.complained.splitlines() if line.startswith("line ")} == {
            "line 12: email_addresses[0] must be an e-mail address",
            "line 102: has 2 values, but the header has 6",
        }
        stored = await contact(stub, "c5")
        assert ([*stored.email_addresses], [*stored.phone_numbers]) == (["p5@mail.example"], ["+49301000005"])
        assert (stored.first_name, stored.last_name, stored.title) == ("Ann", "Lee 5", "Dr.")

        async def are_linked() -> bool:
            return await linked_contacts(stub, "user5") == ["c5"]

        await eventually(are_linked, timeout=20)
        # The later of two lines with one id counts.
        assert [*(await contact(stub, "c7")).email_addresses] == ["new@mail.example"]
        assert (await linked_contacts(stub, "user7"))[-1:] in ([], [""])

        again = await imported(identity.target, "-", given=(HEADER + "\n".join(lines[:7]) + "\n").encode())
        assert (again.code, again.said) == (0, "7 contacts stored, 0 lines skipped\n")
        assert await contact(stub, "c5") == stored
        assert await linked_contacts(stub, "user5") == ["c5"]


async def test_an_import_with_sync_deletes_what_the_file_does_not_have_unless_that_is_too_much(
    running_identity: Running,
) -> None:
    lines = [f"c{number:02},p{number}@mail.example,,Ann,Lee,\n" for number in range(20)]
    async with running_identity(IDENTITY_MONGO_TIMEOUT_MS=20_000) as identity, identity.stub() as stub:

        async def synced(given: list[str], *options: str) -> tuple[int, str, str]:
            text = (HEADER + "".join(given)).encode()
            return await imported(identity.target, "-", "--sync", *options, given=text)

        async def ids() -> list[str]:
            return [one.contact_id for one in (await stub.ListContacts(pb.ListContactsRequest())).contacts]

        assert (await synced(lines))[:2] == (0, "20 contacts stored, 0 lines skipped, 0 contacts deleted\n")
        code, said, complained = await synced(lines[:10])
        assert (code, said) == (1, "10 contacts stored, 0 lines skipped, 0 contacts deleted\n")
        assert "10 of 20 contacts were not sent" in complained
        code, said, complained = await synced([*lines[:18], "c18\n"])
        assert (code, said) == (1, "18 contacts stored, 1 lines skipped, 0 contacts deleted\n")
        assert "No contact was deleted" in complained
        refused = "c19,no address,,,,\n"  # it is a contact, so it stays
        code, said, _ = await synced([*lines[:16], refused])
        assert (code, said) == (1, "16 contacts stored, 1 lines skipped, 3 contacts deleted\n")
        assert await ids() == [f"c{number:02}" for number in [*range(16), 19]]
        code, said, _ = await synced(lines[:5], "--max-deleted-percent", "90")
        assert (code, said) == (0, "5 contacts stored, 0 lines skipped, 12 contacts deleted\n")


async def test_without_identity_the_import_stops_with_a_message(tmp_path: Path) -> None:
    ended = await imported("127.0.0.1:1", "-", "--patience", "0", given=(HEADER + "c1,,,Ann,,\n").encode())
    assert (ended.code, ended.said) == (1, "0 contacts stored, 0 lines skipped\n")
    assert ended.complained.startswith("The import has stopped; run it again later. UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("arguments", "given", "problem"),
    [
        (["missing.csv"], "", "missing.csv: No such file or directory"),
        (["-"], "Name,E-Mail\n", "-: line 1: must be a header with ContactId"),
        (["-", "--encoding", "rot13"], HEADER, "--encoding: rot13 is no known text encoding"),
        (["-", "--at-once", "0"], HEADER, "--at-once: must be 1 or more"),
        (["-", "--sync", "--max-deleted-percent", "0"], HEADER, "--max-deleted-percent: must be 1 to 100"),
        (["-", "--sync", "--max-deleted-percent", "101"], HEADER, "--max-deleted-percent: must be 1 to 100"),
    ],
)
async def test_invalid_arguments_are_refused(arguments: list[str], given: str, problem: str) -> None:
    ended = await imported("127.0.0.1:1", *arguments, given=given.encode())
    assert (ended.code, ended.said) == (2, "")
    assert problem in ended.complained


async def test_help_is_printed() -> None:
    ended = await imported("127.0.0.1:1", "--help")
    assert (ended.code, ended.said.partition(" [")[0]) == (0, "usage: footfall-contacts import")


async def test_ignored_columns_are_reported_once(tmp_path: Path) -> None:
    ended = await imported("127.0.0.1:1", "-", given=b"ContactId,Title,Segment\nc1\n")
    assert ended.complained == "ignored columns: Segment\nline 2: has 1 values, but the header has 3\n"
