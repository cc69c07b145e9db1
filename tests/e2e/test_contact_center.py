"""A contact center over mutual TLS: a call comes in, and an agent follows the caller while identity is killed."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tools.contact_center import CLIENTS, Watched, answers, watching
from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event, event, now_ms

pytestmark = pytest.mark.long

SHOP = "https://shop.example"
VISIT_IDLE_MS = 30 * 60_000
"""The default of VISIT_IDLE_MINUTES."""


class Step(NamedTuple):
    """What the visitor does, and what every client shows of the visit then."""

    events: list[tuple[str, str]]
    """Name and page of each."""
    change: str
    """One of the changes that the messages name."""
    shown: dict[str, str]
    is_identity_killed: bool = False
    """Identity is killed just before."""


STEPS = [
    Step(
        [("PageExited", "/home"), ("SignOut", "/pricing"), ("PageEntered", "/pricing")],
        "PAGE",
        {"row": "shown", "state": "VISITOR_STATE_RECOGNIZED", "url": f"{SHOP}/pricing"},
    ),
    Step(
        [("PageExited", "/pricing"), ("SignIn", "/cart"), ("PageEntered", "/cart")],
        "STATE",
        {"row": "shown", "state": "VISITOR_STATE_AUTHENTICATED", "url": f"{SHOP}/cart"},
        is_identity_killed=True,
    ),
    Step([("PageExited", "/cart")], "LEFT", {"row": "grey", "presence": "VISITOR_PRESENCE_LEFT"}),
]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with running_suite(tmp_path_factory.mktemp("contact-center"), is_mutual_tls=True) as suite:
        yield suite


async def test_a_caller_is_popped_and_followed_through_a_kill_of_identity(secured: Suite, tmp_path: Path) -> None:
    contact, visit, person = f"contact-{uuid.uuid4()}", str(uuid.uuid4()), f"{uuid.uuid4()}@mail.example"
    phone = f"+4930{uuid.uuid4().int % 10**8:08d}"

    def happening(name: str, page: str, at_ms: int) -> Event:
        user = person if name == "SignIn" else None
        return event(name, visit, at_ms, user, pageID=uuid.uuid5(uuid.UUID(visit), page).hex, url=f"{SHOP}{page}")

    async with secured.http() as http:

        async def beacon(*events: Event) -> None:
            assert (await http.post("/beacon", json=list(events))).status_code == 204

        body = {"emailAddresses": [person], "phoneNumbers": [phone]}
        assert (await http.put(f"/api/v1/contacts/{contact}", json=body)).status_code == 200
        await beacon(happening("PageEntered", "/home", now_ms()), happening("SignIn", "/home", now_ms()))

        call = f"call-{uuid.uuid4()}"
        for client, agent in zip(CLIENTS, ["agent-17", "agent-18"], strict=True):

            def is_popped(client: str = client) -> None:
                [found] = answers(client, secured, "pop", "phone", phone)
                assert (found["status"], found["contact"]) == ("CONTEXT_STATUS_LINKED", contact)
                assert (found["visits"], found["pages"]) == ([visit], [f"{SHOP}/home"])
                assert found["unavailable"] == []

            await eventually(is_popped, timeout=30)
            [stored] = answers(client, secured, "record", call, visit, agent)
            assert stored["interaction"] == call

        with ExitStack() as open_clients:
            all_watched = {
                client: open_clients.enter_context(watching(client, secured, tmp_path, contact)) for client in CLIENTS
            }

            def is_shown(change: str, shown: dict[str, str]) -> None:
                visitor = answers("python", secured, "chat", visit)[0]
                for watched in all_watched.values():
                    line = watched.shows(visit)[-1]
                    assert {name: line[name] for name in visitor} == visitor
                    assert {name: line[name] for name in shown} == shown
                    assert any(f"VISITOR_CHANGE_{change}" in line["changes"] for line in watched.shows(visit))

            await eventually(lambda: [bool(watched.shows(visit)) for watched in all_watched.values()] == [True, True])
            is_shown("LISTED", {"row": "shown", "state": "VISITOR_STATE_AUTHENTICATED", "contact": contact})
            earlier = str(uuid.uuid4())  # a visit that ends meanwhile
            await beacon(event("SignIn", earlier, now_ms() - VISIT_IDLE_MS + 5_000, person))
            for step in STEPS:
                if step.is_identity_killed:
                    secured.kill("identity")
                begin_ms = now_ms()  # events of the same millisecond have no order of their own
                await beacon(*(happening(*one, begin_ms + number) for number, one in enumerate(step.events)))
                await eventually(partial(is_shown, step.change, step.shown), timeout=30)
            for client, watched in all_watched.items():
                await eventually(partial(has_dropped, watched, earlier), timeout=90)
                assert "The stream has ended" in (tmp_path / f"{client}.log").read_text(encoding="utf-8")

        for client in [*CLIENTS, *CLIENTS]:  # each reports the end, and again
            answers(client, secured, "record", call, visit, "agent-18", "sold")

        def is_one_interaction() -> None:
            for client in CLIENTS:
                [context] = answers(client, secured, "pop", "phone", phone)
                _, chat = answers(client, secured, "chat", visit)
                assert context["interactions"] == chat["interactions"] == [[call, "agent-18", "sold"]]
                assert chat["pages"][-1] == f"{SHOP}/home"

        await eventually(is_one_interaction, timeout=30)


def has_dropped(watched: Watched, visit: str) -> bool:
    """Whether a client has shown a visit, and has dropped it when it ended."""
    first, last = watched.shows(visit)[0], watched.shows(visit)[-1]
    return first["row"] == "shown" and (last["row"], "VISITOR_CHANGE_ENDED" in last["changes"]) == ("dropped", True)
