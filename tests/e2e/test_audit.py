"""The audit trail: only a holder of the audit key finds in the gateway's log who looked at whose history."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from footfall_gateway.commands import keys as keys_command

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

GATEWAY = Path(sys.executable).parent / "footfall-gateway"


def audit_hashes(suite: Suite, *arguments: str, export: bytes = b"") -> set[str]:
    """What `footfall-gateway audit-hash` prints."""
    environment = {"GATEWAY_AUDIT_KEY": (suite.data_dir / "audit.key").read_text().strip(), "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(
        [GATEWAY, "audit-hash", *arguments], env=environment, input=export, capture_output=True, check=True
    )
    return set(ran.stdout.decode().split())


async def test_an_auditor_finds_everybody_who_has_looked_at_a_person(
    suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    person, visit = f"dana-{uuid.uuid4().hex[:8]}@example.com", str(uuid.uuid4())
    assert keys_command.run(["create", "desktop"], suite.data_dir / "keys.json") == 0
    token = capsys.readouterr().out.split()[-1]
    async with suite.http() as owner, suite.http(auth=None) as desktop:
        desktop.headers["Authorization"] = f"Bearer {token}"
        assert (await owner.post("/beacon", json=event("SignIn", visit, now_ms(), person))).status_code == 204
        path = f"/server/data/visits/{visit.upper()}/sessions"

        exported = f"/api/v1/identities/{quote(person)}/export"

        async def is_known() -> bool:
            return {(await owner.get(one)).status_code for one in (path, exported)} == {200}

        await eventually(is_known)
        [session] = (await desktop.get(path)).json()
        await desktop.get(f"/server/data/sessions/{session['sessionId']}")
        await desktop.get(f"/server/data/identities/{quote(person)}")
        await desktop.delete(f"/api/v1/identities/{quote(person)}")  # not in its scope
        export = (await owner.get(exported)).content

    hashes = audit_hashes(suite, export=export)
    assert audit_hashes(suite, "identity", person) | audit_hashes(suite, "visit", visit) < hashes
    written = (suite.data_dir / "log" / "gateway.log").read_text()
    assert person not in written
    assert visit not in written.lower()
    lines: list[dict[str, Any]] = [json.loads(line) for line in written.splitlines() if '"subject_hashes": {"' in line]
    found = [
        (line["client"], line["key"], line["operation"], line["status"])
        for line in lines
        if hashes & set(line["subject_hashes"].values())
    ]
    key = token.split("_")[1]
    assert {
        ("desktop", key, "listVisitSessions", 200),
        ("desktop", key, "getSession", 200),
        ("desktop", key, "getIdentity", 200),
        ("desktop", key, "eraseIdentity", 403),
        (suite.credentials.user, "", "exportIdentity", 200),
    } <= set(found)


async def test_an_auditor_finds_the_batch_that_wrote_a_contact(suite: Suite) -> None:
    ids = [str(uuid.uuid4()) for _ in range(150)]
    async with suite.http() as http:
        batch = {"contacts": [{"contactId": contact_id} for contact_id in ids]}
        written = await http.post("/api/v1/contacts:batch", json=batch)
        await http.post("/api/v1/contacts:batchDelete", json={"contactIds": ids})
        refused = await http.post("/api/v1/contacts:batchDelete", json={"contactIds": ids * 7})
        assert refused.status_code == 400
    lines = [json.loads(line) for line in (suite.data_dir / "log" / "gateway.log").read_text().splitlines()]
    for contact_id in (ids[0], ids[-1]):
        [hashed] = audit_hashes(suite, "contact", contact_id)
        found = [line for line in lines if hashed in line.get("contact_hashes", ())]
        assert [line["operation"] for line in found] == ["writeContacts", "deleteContacts"]
        assert {line["client"] for line in found} == {suite.credentials.user}
        assert found[0]["request_id"] == written.headers["x-request-id"]


def test_without_the_key_nothing_is_told() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GATEWAY_AUDIT_KEY"}
    ran = subprocess.run([GATEWAY, "audit-hash", "visit", "x"], env=environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, b"")
