"""What links contacts is in IDENTITY_POLICY_FILE: it is followed, all identities are judged again, and may be tried."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.event.v1 import event_pb2
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.identity_policy import LinkPolicy
from footfall_eventlog.match_keys import Rule
from footfall_identity.contact_record import ContactRecord
from footfall_identity.judge import Judge
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.record_writer import RecordWriter
from footfall_servicekit import reloading
from footfall_servicekit.errors import RequestError, details_of

from tests.service.identity.test_generic_values import Site, contact, sign_in
from tests.tools.eventually import eventually
from tests.tools.identity import admitted, append, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

EMAIL, PHONE = "ann@shop.example", "+49301234567"
BY_PHONE = 'version = "2"\nlink_rules = ["phone_number", "email_address"]\n'


@pytest.fixture
def site(links: LinkStore, linker: Linker, writer: RecordWriter) -> Site:
    return Site(links, linker, writer)


async def store_contacts(stub: Any) -> None:
    for stored in (
        contact_pb2.Contact(contact_id="by email", email_addresses=[EMAIL]),
        contact_pb2.Contact(contact_id="by phone", phone_numbers=[PHONE]),
    ):
        await stub.UpsertContact(pb.UpsertContactRequest(contact=stored))


async def test_a_changed_file_changes_the_links_that_rules_have_made(
    running_identity: Running, redis: Any, tmp_path: Path
) -> None:
    (file := tmp_path / "policy.toml").write_text('version = "1"\n')
    async with running_identity(IDENTITY_POLICY_FILE=file) as process, process.stub() as stub:
        await store_contacts(stub)
        of_ann = admitted("SignIn", new_id(), now_ms(), "ann", data={"email": EMAIL, "phone": PHONE, "Post": "x@y.de"})
        by_hand = admitted("SignIn", new_id(), now_ms(), "bob", data={"email": EMAIL, "phone": PHONE})
        await append(redis, of_ann, by_hand)

        async def links(identity_id: str) -> list[contact_pb2.ContactLink]:
            return [*(await stub.ListContactLinks(pb.ListContactLinksRequest(identity_id=identity_id))).links]

        async def is_linked(rule: str, contact_id: str, version: str) -> None:
            newest = (await links("ann"))[0]
            found = contact_pb2.LinkRule.Name(newest.rule).removeprefix("LINK_RULE_"), newest.contact_id
            assert (*found, newest.policy_version) == (rule, contact_id, version)

        await eventually(partial(is_linked, "EMAIL_ADDRESS", "by email", "1+defaults-1"), timeout=30)
        await eventually(lambda: links("bob"), timeout=30)
        await stub.LinkContact(pb.LinkContactRequest(identity_id="bob", contact_id="by email", actor="agent"))
        file.write_text(BY_PHONE)
        await eventually(partial(is_linked, "PHONE_NUMBER", "by phone", "2+defaults-1"), timeout=30)
        file.write_text('version = "3"\nlink_rules = ["telephone"]\n')
        await eventually(lambda: _is_in("cannot be used", process.output()), timeout=30)
        file.write_text('version = "4"\nlink_rules = []\n')
        await eventually(partial(is_linked, "UNSPECIFIED", "", "4+defaults-1"), timeout=30)
        decided = [(one.rule, one.contact_id, one.policy_version) for one in await links("bob")]
        assert decided[0] == (contact_pb2.LINK_RULE_MANUAL, "by email", ""), "what a person has decided stays"
        # The same rules with other keys: later events are read by them.
        file.write_text('version = "5"\nemail_keys = ["post"]\n')
        await eventually(partial(is_linked, "EMAIL_ADDRESS", "by email", "5+defaults-1"), timeout=30)
        again = admitted("SignIn", new_id(), now_ms() + 1, "cleo", data={"email": "x@y.de", "Post": EMAIL})
        await append(redis, again)

        async def is_cleo_linked() -> None:
            assert [one.contact_id for one in await links("cleo")] == ["by email"]

        await eventually(is_cleo_linked, timeout=30)
        assert "Traceback" not in process.output()


def _is_in(part: str, text: str) -> None:
    assert part in text


async def test_what_a_process_links_before_it_takes_the_new_rules_is_judged_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that is first judges all, while the other still links by the former rules."""
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    for name in ("first", "second"):
        (tmp_path / name).write_text('version = "1"\n')
    other = Linker(site.links, LinkPolicy())
    first = Judge(site.links, other, tmp_path / "first")
    second = Judge(site.links, site.linker, tmp_path / "second")
    await first.apply()
    await site.contacts.upsert(ContactRecord(contact_id="by email", email_addresses=(EMAIL,)))
    await site.contacts.upsert(contact("by phone", PHONE))
    following = [asyncio.create_task(one.follow()) for one in (first, second)]
    try:
        (tmp_path / "first").write_text(BY_PHONE)
        await eventually(lambda: _has(other, Rule.PHONE_NUMBER))
        await first.apply()
        await site.arrive(sign_in("ann", email=EMAIL, phone=PHONE))
        assert (await site.links.get(["ann"]))["ann"].contact_id == "by email"
        (tmp_path / "second").write_text(BY_PHONE)
        await eventually(lambda: _has(site.linker, Rule.PHONE_NUMBER))

        async def is_judged() -> None:
            await first.apply()
            assert (await site.links.get(["ann"]))["ann"].contact_id == "by phone"

        await eventually(is_judged)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


async def test_a_mark_is_removed_as_soon_as_mongodb_answers_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    forget, refusals = site.links.forget_link_rules, [True] * 3

    async def forget_later() -> None:
        if refusals and refusals.pop():
            raise RequestError.unavailable("MongoDB does not answer", 1)
        await forget()

    monkeypatch.setattr(site.links, "forget_link_rules", forget_later)
    (file := tmp_path / "policy.toml").write_text('version = "1"\n')
    judge = Judge(site.links, site.linker, file)
    await judge.apply()
    following = asyncio.create_task(judge.follow())
    try:
        file.write_text(BY_PHONE)

        async def is_forgotten() -> None:
            assert (await site.links.link_rules())[0] is None

        await eventually(is_forgotten)
        assert (refusals, site.linker.policy.rules.order[0]) == ([], Rule.PHONE_NUMBER)
    finally:
        following.cancel()


def _has(linker: Linker, first: Rule) -> None:
    assert linker.policy.rules.order[0] is first


async def test_identities_are_judged_without_writing(running_identity: Running, redis: Any, links: LinkStore) -> None:
    async with running_identity(IDENTITY_MAX_IDENTITIES_PER_VALUE=1) as process, process.stub() as stub:
        await store_contacts(stub)
        kept = contact_pb2.Contact(contact_id="merged", email_addresses=["merged@shop.example"])
        await stub.UpsertContact(pb.UpsertContactRequest(contact=kept))
        into = pb.MergeContactsRequest(from_contact_id="merged", into_contact_id="by phone", actor="agent")
        await stub.MergeContacts(into)
        await append(redis, admitted("SignIn", new_id(), now_ms(), "ann", data={"email": EMAIL, "phone": PHONE}))

        async def is_linked() -> None:
            assert (await links.get(["ann"]))["ann"].contact_id == "by email"

        await eventually(is_linked, timeout=30)
        await stub.UnlinkContact(pb.UnlinkContactRequest(identity_id="ann", actor="agent"))
        stored = await links.get(["ann"])

        def keys(values: dict[str, str], generic: int = 0) -> list[pb.EvidenceKey]:
            return [
                pb.EvidenceKey(
                    attribute=name,
                    key=value,
                    assurance=event_pb2.ASSURANCE_CLAIMED,
                    generic_assurance=event_pb2.Assurance.ValueType(generic),
                )
                for name, value in values.items()
            ]

        both = {"email": f"email:{EMAIL}", "phone": f"phone:{PHONE}"}
        asked = [
            pb.IdentityEvidence(identity_id="ann", keys=keys(both)),
            pb.IdentityEvidence(identity_id="new", keys=keys(both)),
            pb.IdentityEvidence(identity_id="of merged", keys=keys({"email": "email:merged@shop.example"})),
            pb.IdentityEvidence(identity_id="generic", keys=keys(both, 1)),
            pb.IdentityEvidence(identity_id="kiosk", keys=keys(both), shared=True),
            pb.IdentityEvidence(identity_id="nobody"),
        ]
        by_both = [contact_pb2.LINK_RULE_EMAIL_ADDRESS, contact_pb2.LINK_RULE_PHONE_NUMBER]
        answer: pb.JudgeLinksResponse = await stub.JudgeLinks(pb.JudgeLinksRequest(rules=by_both, identities=asked))
        found = {one.identity_id: one.contact_id for one in answer.links}
        assert found == {
            "ann": "by phone",  # a person has ruled the other one out
            "new": "by email",
            "of merged": "by phone",
            "generic": "",
            "kiosk": "",
            "nobody": "",
        }
        unused = {one.identity_id: {reason.unused_reason for reason in one.unused_evidence} for one in answer.links}
        assert unused["generic"] == {contact_pb2.UNUSED_REASON_GENERIC_VALUE}
        assert unused["kiosk"] == {contact_pb2.UNUSED_REASON_SHARED_IDENTITY}
        assert answer.rules_in_force == answer.default_rules
        assert answer.rules_in_force.max_identities_per_value == 1
        assert answer.rules_in_force.phone_keys[0] == "phone"
        by_both.reverse()
        answer = await stub.JudgeLinks(pb.JudgeLinksRequest(rules=by_both, identities=asked[1:2]))
        assert [(one.contact_id, one.rule) for one in answer.links] == [("by phone", by_both[0])]
        assert await links.get(["ann", "new", "generic", "kiosk"]) == stored
        for wrong, field in (
            (pb.JudgeLinksRequest(rules=[contact_pb2.LINK_RULE_MANUAL]), "rules"),
            (pb.JudgeLinksRequest(rules=[by_both[0], by_both[0]]), "rules"),
            (pb.JudgeLinksRequest(identities=[pb.IdentityEvidence()]), "identities[0].identity_id"),
            (pb.JudgeLinksRequest(identities=asked[1:2] * 101), "identities"),
            (
                pb.JudgeLinksRequest(identities=[pb.IdentityEvidence(identity_id="x", keys=keys({"mail": "x"}))]),
                "identities[0].keys",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.JudgeLinks(wrong)
            assert [name for name, _ in details_of(refused.value).violations] == [field]
