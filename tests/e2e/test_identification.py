"""Random events in random order, with restarts in between: the suite's answers equal those of the reference model.

`make test` runs 15 examples; FOOTFALL_EXAMPLES=1000 is for the night.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from footfall.history.v1 import history_service_pb2, history_service_pb2_grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.conftest import LEAVE_MS, PAGES_KEPT, TRANSITIONS_KEPT
from tests.tools.eventually import eventually
from tests.tools.reference import Reference, Sent
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

EXAMPLES = int(os.environ.get("FOOTFALL_EXAMPLES", "15"))
STEPS = 20
IDLE_MS = 1_800_000
STATES = {1: "ANONYMOUS", 2: "RECOGNIZED", 3: "AUTHENTICATED"}
# Rare enough that a run is not made of them: each costs a second or two.
RESTART_ONE_IN = 60
OTHER_NAMES = {"email": "EmailAddress", "phone": "PhoneNumber", "firstName": "FIRSTNAME", "lastName": "familyName"}
"""What some pages call the attributes; the reference has ours."""
PLACEHOLDERS = ["undefined", "{{user.id}}", " "]
"""User ids of no person. A quarter of all are."""

positions = st.integers(0, 2)


@pytest.mark.timeout(120 + 3 * EXAMPLES)
def test_the_suite_says_what_the_reference_says(bounded_suite: Suite) -> None:
    class Machine(Visitors):
        running = bounded_suite

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="FOOTFALL_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Visitors(RuleBasedStateMachine):
    """Three visits, three people and three contacts, all with names of this example's own."""

    running: Suite

    @initialize()
    def begin(self) -> None:
        self.http = self.running.blocking_http()
        self.channel = self.running.blocking_channel("history")
        self.history = history_service_pb2_grpc.HistoryServiceStub(self.channel)
        self.reference = Reference(TRANSITIONS_KEPT, PAGES_KEPT, LEAVE_MS)
        mark = uuid.uuid4().hex[:8]
        self.visit_ids = [str(uuid.uuid4()) for _ in range(3)]
        self.people = [f"ann.{mark}@shop.example", f"o'neil/çelik #7 {mark}", f"bob{mark}"]
        self.contact_ids = [f"contact-{n}-{mark}" for n in range(3)]
        self.emails = [self.people[0], f"home.{mark}@mail.example"]
        self.phones = [f"+4930{uuid.uuid4().int % 10**8:08d}" for _ in range(2)]
        self.first_names = [f"Ann{mark}", f"Bob{mark}"]
        self.started_ms = now_ms() - IDLE_MS // 2
        self.page_ids = [uuid.uuid4().hex.upper() for _ in range(3)]

    @rule(
        visit=positions,
        name=st.sampled_from(["PageEntered", "PageExited", "AddToCart", "UserInfo", "SignIn", "SignIn", "SignOut"]),
        page=positions,
        person=positions,
        seconds=st.integers(0, 20),
        given=st.fixed_dictionaries({}, optional={"email": positions, "phone": positions, "firstName": positions}),
        is_now=st.sampled_from([False, False, False, True]),
        again=st.booleans(),
        names=st.sampled_from([{}, OTHER_NAMES]),
        placeholder=st.sampled_from([None] * 8 + PLACEHOLDERS),
        site=st.sampled_from([{}] * 8 + [{"site": "agent-desk"}]),
    )
    def something_happens(
        self,
        *,
        visit: int,
        name: str,
        page: int,
        person: int,
        seconds: int,
        given: dict[str, int],
        is_now: bool,
        again: bool,
        names: dict[str, str],
        placeholder: str | None,
        site: dict[str, str],
    ) -> None:
        """An event, early or late by up to twenty seconds of the visit, or now; perhaps of no person, or of staff."""
        user = self.people[person] if name in {"UserInfo", "SignIn"} else ""
        is_ignored = bool(user) and placeholder is not None
        known: dict[str, list[str]] = {"email": self.emails, "phone": self.phones, "firstName": self.first_names}
        data = {key: known[key][number % 2] for key, number in given.items()} if name == "SignIn" else {}
        if "firstName" in data:
            data["lastName"] = "Miller"
        # Which of two pages with the same time is forgotten first is left open, so there are none.
        at_ms = (now_ms() if is_now else self.started_ms + 1_000 * seconds) + page
        said = {names.get(key, key): value for key, value in data.items()}
        user_id = placeholder if is_ignored else user or None
        sent = event(name, self.visit_ids[visit], at_ms, user_id, data=said, pageID=self.page_ids[page], **site)
        for _ in range(1 + again):
            self._until(lambda: self.http.post("/beacon", json=[sent]), 200 if is_ignored else 204)
        event_id = str(uuid.UUID(sent["eventID"]))
        events = self.reference.visits.setdefault(self.visit_ids[visit], {})
        known_user = "" if is_ignored else user
        events[event_id] = Sent(at_ms, event_id, name, known_user, data, self.page_ids[page], is_ignored, bool(site))

    @rule(contact=positions, emails=st.sets(positions, max_size=2), phone=st.booleans(), first_name=positions)
    def the_directory_changes(self, contact: int, emails: set[int], phone: bool, first_name: int) -> None:
        """A contact is written. Its spelling differs from the page's; the reference has the page's."""
        known = {
            "emailAddresses": sorted({self.emails[number % 2] for number in emails}),
            "phoneNumbers": self.phones[:1] if phone else [],
            "firstName": self.first_names[first_name] if first_name < 2 else "",
        }
        body = {
            "emailAddresses": [email.upper() for email in known["emailAddresses"]],
            "phoneNumbers": [f"{number[:3]} ({number[3:5]}) {number[5:]}" for number in known["phoneNumbers"]],
            "firstName": str(known["firstName"]).upper(),
            "lastName": " MILLER",
        }
        self._until(lambda: self.http.put(f"/api/v1/contacts/{self.contact_ids[contact]}", json=body), 200)
        self.reference.contacts[self.contact_ids[contact]] = known

    @rule(contact=positions)
    def a_contact_is_deleted(self, contact: int) -> None:
        contact_id = self.contact_ids[contact]
        known = self.reference.contacts.pop(contact_id, None)
        self._until(lambda: self.http.delete(f"/api/v1/contacts/{contact_id}"), 204 if known else 404)

    @precondition(lambda self: self.reference.contacts)
    @rule(person=positions, contact=positions)
    def somebody_links_by_hand(self, person: int, contact: int) -> None:
        contact_ids = sorted(self.reference.contacts)
        contact_id, user = contact_ids[contact % len(contact_ids)], self.people[person]
        self._until(lambda: self.http.put(self._of(user, "contact"), json={"contactId": contact_id}), 200)
        self.reference.decide(user, "link", contact_id)

    @rule(person=positions)
    def somebody_unlinks_by_hand(self, person: int) -> None:
        """Only what is linked: what rules have linked is waited for first, because they need a moment."""
        user = self.people[person]
        contact_id, _ = self.reference.contact_of(user)
        if not contact_id:
            return
        self._eventually(lambda: self._link_in_force(user)["contactId"] == contact_id)
        self._until(lambda: self.http.delete(self._of(user, "contact")), 204)
        self.reference.decide(user, "unlink", contact_id)

    @rule(person=positions, is_meant=st.sampled_from([False, False, True]))
    def somebody_is_erased(self, person: int, is_meant: bool) -> None:
        if not is_meant:
            return
        user = self.people[person]
        time.sleep(0.002)
        self._until(lambda: self.http.delete(f"/api/v1/identities/{quote(user, safe='')}"), 200)
        self.reference.forget(user, now_ms())
        time.sleep(0.002)

    @rule(old=positions, new=positions)
    def somebody_renames(self, old: int, new: int) -> None:
        """A name leads to another, unless it leads to a third one, or the other one to it."""
        if old == new:
            return
        user, other = self.people[old], self.people[new]
        known = self.reference.renames.get(user, "")
        is_refused = known not in {"", other} or self.reference.current(other) == user
        body = {"identityId": other}
        self._until(lambda: self.http.put(self._of(user, "rename"), json=body), 409 if is_refused else 200)
        if not is_refused:
            self.reference.renames[user] = other
            self.reference.renamed.setdefault(user, set()).add(other)

    @rule(old=positions)
    def somebody_undoes_a_rename(self, old: int) -> None:
        user = self.people[old]
        status = 200 if user in self.reference.renamed else 409
        self._until(lambda: self.http.delete(self._of(user, "rename")), status)
        self.reference.renames.pop(user, None)

    @rule(contact=positions, into=positions)
    def contacts_are_merged(self, contact: int, into: int) -> None:
        """A contact leads to another that exists, under the same conditions."""
        if contact == into:
            return
        contact_id, other = self.contact_ids[contact], self.contact_ids[into]
        merges = self.reference.merges
        at, leads_back = other, False
        while at in merges and not leads_back:
            at = merges[at]
            leads_back = at == contact_id
        status = 409 if merges.get(contact_id, other) != other or leads_back else 200
        if self.reference.contact(other) not in self.reference.contacts:
            status = 404
        path = f"/api/v1/contacts/{contact_id}/merge"
        self._until(lambda: self.http.put(path, json={"contactId": other}), status)
        if status == 200:
            merges[contact_id] = other
            self.reference.merged.add(contact_id)

    @rule(contact=positions)
    def a_merge_is_undone(self, contact: int) -> None:
        contact_id = self.contact_ids[contact]
        status = 200 if contact_id in self.reference.merged else 409
        self._until(lambda: self.http.delete(f"/api/v1/contacts/{contact_id}/merge"), status)
        self.reference.merges.pop(contact_id, None)

    @rule(program=st.sampled_from(["identity", "identity", "valkey", "history"]), lot=st.integers(1, RESTART_ONE_IN))
    def a_program_dies(self, program: Any, lot: int) -> None:
        if lot == RESTART_ONE_IN:
            with suppress(ProcessLookupError):  # it is being started again already
                self.running.kill(program)

    def teardown(self) -> None:
        """Compare everything, as soon as it has had the time to become right."""
        if not hasattr(self, "http"):
            return
        try:
            for visit_id in self.reference.visits:
                self._eventually(partial(self._visit_is_right, visit_id))
            for user in self.people:
                self._eventually(partial(self._person_is_right, user))
            for contact_id in self.contact_ids:
                self._eventually(partial(self._contact_is_right, contact_id))
        finally:
            self.http.close()
            self.channel.close()

    def _visit_is_right(self, visit_id: str) -> None:
        walk = self.reference.walk(visit_id)
        visitor = self._json(f"/api/v1/visits/{visit_id}/visitor")
        live = visitor["state"], visitor["identityId"] or "", visitor["sessionId"] or ""
        assert live == walk.last
        is_of_staff = self.reference.is_of_staff(visit_id)
        assert (visitor["staff"], self._json(f"/api/v1/visits/{visit_id}/explain")["staff"]) == (
            is_of_staff,
            is_of_staff,
        )
        pages = self.reference.pages(visit_id)
        presence, left_ms = pages.presence(now_ms(), IDLE_MS), pages.last_exit_ms
        assert (visitor["presence"], visitor["openPageCount"]) == (presence, len(pages.open))
        assert visitor["leaveTime"] == (left_ms if presence == "LEFT" else None)
        request = history_service_pb2.ListEventsRequest(visit_id=visit_id, page_size=1000)
        try:
            stored = self.history.ListEvents(request, timeout=5, wait_for_ready=True).events
        except grpc.RpcError as error:
            raise AssertionError from error
        stamps = {e.event.event_id: (STATES[e.stamp.state], e.stamp.identity_id, e.stamp.session_id) for e in stored}
        assert stamps == walk.stamps
        assert [e.event.event_id for e in stored] == [
            e.event_id for e in sorted(self.reference.visits[visit_id].values())
        ]
        sessions = self._json(f"/server/data/visits/{visit_id}/sessions") or []
        assert {s["sessionId"]: (s["identityId"], s["startDate"], s["endDate"]) for s in sessions} == walk.sessions
        identities = self._json(f"/server/data/visits/{visit_id}/identities") or []
        assert {i["identityId"]: i["visitScope"].upper() for i in identities} == walk.scopes

    def _person_is_right(self, user: str) -> None:
        contact_id, candidates = self.reference.contact_of(user)
        in_force = self._link_in_force(user)
        assert (in_force["contactId"] or "", sorted(in_force["candidateContactIds"])) == (contact_id, candidates)
        identity = self.http.get(f"/server/data/identities/{quote(user, safe='')}")
        names = self.reference.names(user)
        if names & self.reference.people():
            assert identity.status_code == 200, identity.text
            current = self.reference.current(user)
            redirected_from = user if current != user else None
            assert (identity.json()["identityId"], identity.json().get("redirectedFrom")) == (current, redirected_from)
            assert (identity.json()["entityInCS"] or "") == contact_id
        else:
            assert identity.status_code == 404, identity.text
        visits = {visit for visit in self.reference.visits if self.reference.walk(visit).scopes.keys() & names}
        if visits:
            listed = self._json(f"/server/data/identities/{quote(user, safe='')}/visits") or []
            assert {one["visitId"] for one in listed} == visits

    def _contact_is_right(self, contact_id: str) -> None:
        """The contact that it leads to answers, under its own id too."""
        found = self.reference.contact(contact_id)
        answer = self.http.get(f"/api/v1/contacts/{contact_id}")
        assert answer.status_code == (200 if found in self.reference.contacts else 404), answer.text
        if answer.status_code == 200:
            redirected_from = contact_id if found != contact_id else None
            assert (answer.json()["contactId"], answer.json().get("redirectedFrom")) == (found, redirected_from)

    def _link_in_force(self, user: str) -> dict[str, Any]:
        none = {"contactId": "", "candidateContactIds": []}
        if self.http.get(self._of(user, "links")).status_code == 404:  # this identity is not known
            return none
        links: list[dict[str, Any]] = self._json(self._of(user, "links"))["links"]
        return links[0] if links else none

    @staticmethod
    def _of(user: str, what: str) -> str:
        return f"/api/v1/identities/{quote(user, safe='')}/{what}"

    def _json(self, path: str) -> Any:
        """The body of a GET; None for 204. What is not there yet, or cannot be asked now, is an AssertionError."""
        answer = self.http.get(path)
        assert answer.status_code in {200, 204}, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.status_code == 200 else None

    @staticmethod
    def _until(request: Callable[[], httpx.Response], status: int) -> None:
        """Send until the answer is neither a 503 nor the 202 of what is not done yet: the retry that clients owe us."""
        deadline = time.monotonic() + 30
        while (answer := request()).status_code in {202, 503, 504} and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer.status_code == status, answer.text

    @staticmethod
    def _eventually(check: Callable[[], Any]) -> None:
        asyncio.run(eventually(check, timeout=30))
