"""The programs of the pages run as printed, but for their ports, and the examples for gRPC do what they say."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
from footfall_client import SERVICE_CONFIG
from footfall_servicekit import channel

from docs.pages import pages
from tests.tools.contact_center import CLIENTS, answers, watching
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.suite import MUTUAL_TLS, Suite
from tests.tools.visits import event, now_ms

pytestmark = pytest.mark.skipif(MUTUAL_TLS, reason="the programs of the pages have no certificates")

SECRET = "a secret of at least thirty-two bytes"


def block(name: str, language: str) -> str:
    """The one block of a page in a language."""
    [found] = [one.text for page in pages() if page.name == name for one in page.blocks if one.language == language]
    return found


@contextmanager
def running(program: str, folder: Path, *arguments: str) -> Iterator[Path]:
    """A program that runs until the end of the test; the file of its output."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "program.py", *arguments], cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield output
    finally:
        process.kill()
        process.wait()


async def test_the_server_that_signs_answers_as_shown(tmp_path: Path) -> None:
    [port] = free_ports(1)
    (tmp_path / "shop.secret").write_text(SECRET, encoding="utf-8")
    command, _, shown = block("docs/site/install.md", "console").rpartition("\n{")
    curl = command.removeprefix("$ ").replace("8090", str(port))

    def answer() -> str:
        ended = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    with running(block("docs/site/install.md", "python").replace("8090", str(port)), tmp_path):
        written = await eventually(answer, every=0.2)
    beginning = "{" + shown.partition("...")[0]
    assert written.startswith(beginning)
    claims = jwt.decode(json.loads(written)["token"], SECRET, algorithms=["HS256"], audience="shop")
    assert claims["sub"] == json.loads(written)["userID"]
    assert claims["visitID"] in command


async def test_the_client_of_the_live_stream_prints_a_sign_in(suite: Suite, tmp_path: Path) -> None:
    visit_id = str(uuid.uuid4())
    with running(block("docs/api/live.md", "python"), tmp_path, suite.url, ":".join(suite.credentials)) as output:

        async def printed() -> bool:
            await http.post("/beacon", json=event("SignIn", visit_id, now_ms(), "dana@example.com"))
            return visit_id in output.read_text(encoding="utf-8")

        async with suite.http() as http:
            await eventually(printed, every=0.2)  # from the moment on that the client has connected


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_grpc_client_shows_a_caller_a_chat_and_all_visitors(
    suite: Suite, tmp_path: Path, client: str
) -> None:
    contact, visit, other = f"contact-{uuid.uuid4()}", str(uuid.uuid4()), str(uuid.uuid4())
    person = f"{uuid.uuid4()}@mail.example"
    async with suite.http() as http:
        await http.put(f"/api/v1/contacts/{contact}", json={"emailAddresses": [person]})
        added = event("AddToCart", visit, now_ms(), data={"price": 9_007_199_254_740_993, "name": "Ä"})
        await http.post("/beacon", json=[event("SignIn", visit, now_ms(), person), added])

        def is_popped() -> None:
            [found] = answers(client, suite, "pop", "contact_id", contact)
            assert (found["status"], found["visits"]) == ("CONTEXT_STATUS_LINKED", [visit])
            assert [[name, data["name"]] for name, data in found["events"]] == [["AddToCart", "Ä"]]

        await eventually(is_popped, timeout=30)
        visitor, pages = answers(client, suite, "chat", visit)
        assert (visitor["state"], visitor["contact"]) == ("VISITOR_STATE_AUTHENTICATED", contact)
        assert pages == {"pages": [], "interactions": []}
        with watching(client, suite, tmp_path) as watched:
            listed = {"row": "shown", "changes": ["VISITOR_CHANGE_LISTED"], **visitor}
            await eventually(lambda: listed in watched.shows(visit))
            await http.post("/beacon", json=event("PageEntered", other, now_ms()))
            await eventually(
                lambda: [line["state"] for line in watched.shows(other)][:1] == ["VISITOR_STATE_ANONYMOUS"]
            )
            await http.post("/beacon", json=event("SignIn", other, now_ms(), "dana@example.com"))
            await eventually(lambda: watched.shows(other)[-1]["identity"] == "dana@example.com")


def test_clients_have_the_service_config_of_footfall_itself() -> None:
    assert json.loads(channel._SERVICE_CONFIG) == SERVICE_CONFIG
