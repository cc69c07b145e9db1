"""The visitors of `make demo` are accepted, and their contacts are theirs."""

from deploy.demo import Visitor, is_contact, put_contacts, with_times
from tests.tools.eventually import eventually
from tests.tools.suite import Suite


async def test_each_beacon_is_accepted_and_who_signs_in_is_a_contact(suite: Suite) -> None:
    async with suite.http() as http:
        await put_contacts(http, *suite.credentials)
        signed_in: dict[str, str] = {}
        for seed in range(20):
            for _, events in Visitor(seed).steps():
                answer = await http.post("/beacon", json=with_times(events))
                assert answer.status_code == 204, answer.text
                signed_in |= {
                    event["visitID"]: event["data"]["userID"] for event in events if event["eventName"] == "SignIn"
                }
        assert signed_in

        async def are_contacts() -> None:
            for visit_id, user_id in signed_in.items():
                visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
                number = int(user_id.removeprefix("customer-"))
                expected = f"C-{number:04}" if is_contact(number) else None
                assert (visitor["state"], visitor["contactId"]) == ("AUTHENTICATED", expected)

        await eventually(are_contacts)
