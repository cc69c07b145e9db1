"""A site that signs its sign-ins: no visitor becomes Authenticated without a valid token, for no claim of the page."""

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from footfall.collector.v1.collector_service_pb2 import CollectRequest
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2 import BatchGetIdentitiesRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from tests.tools.batches import batch, context, message
from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event, event, now_ms

DAY_S = 86_400
KEY = "the key that only the shop and Footfall know, 32 bytes or more"
SITES = f"""
[[site]]
name = "shop"
[[site.keys]]
id = "k1"
algorithm = "HS256"
secret = "{KEY}"

[[site]]
name = "blog"
[[site.keys]]
id = "k1"
algorithm = "HS256"
secret = "{KEY[::-1]}"
"""


@pytest.fixture(scope="module")
def signing_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of two sites that sign."""
    folder = tmp_path_factory.mktemp("sites")
    (folder / "sites.toml").write_text(SITES)
    with running_suite(folder / "data", {"SITES_FILE": str(folder / "sites.toml")}) as suite:
        yield suite


def token(visit_id: str, user: str, *, key: str = KEY, kid: str = "k1", **claims: Any) -> str:
    """A token as the shop's server makes it; claims and key can be made wrong."""
    issued = now_ms() // 1000
    good = {"sub": user, "aud": "shop", "visitID": visit_id, "iat": issued, "exp": issued + 300}
    return jwt.encode(good | claims, key, algorithm="HS256", headers={"kid": kid})


def sign_in(visit_id: str, user: str, signed: Any, **data: str) -> Event:
    said: dict[str, Any] = data if signed is None else {"token": signed, **data}
    return event("SignIn", visit_id, now_ms(), user, site="shop", data=said)


async def put_contact(http: httpx.AsyncClient, email: str) -> str:
    """A contact with this address; its id."""
    contact_id = f"c-{uuid.uuid4().hex}"
    answer = await http.put(f"/api/v1/contacts/{contact_id}", json={"emailAddresses": [email]})
    assert answer.status_code == 200
    return contact_id


async def identity_of(suite: Suite, user: str, seen: str) -> Identity:
    """An identity once an event has been read whose data holds this text under `seen`."""
    async with suite.channel("identity") as channel:

        async def read() -> Identity:
            request = BatchGetIdentitiesRequest(identity_ids=[user])
            answer = await IdentityServiceStub(channel).BatchGetIdentities(request, timeout=5)
            assert [json.loads(one.profile_json).get(seen) for one in answer.identities] == [seen]
            return answer.identities[0]

        return await eventually(read, timeout=20)


def bad_token(chance: random.Random, visit_id: str, user: str) -> Any:
    """Forged, expired, for another site, of another visit, for somebody else, maimed, or none."""
    past = now_ms() // 1000 - chance.randint(3_600, 86_400)
    good = token(visit_id, user)
    head, body, signature = good.split(".")
    return chance.choice(
        [
            None,
            "",
            7,
            {"alg": "none"},
            token(visit_id, user, key="another key that is also 32 bytes long or more"),
            token(visit_id, user, key=KEY[::-1], aud="blog"),
            token(visit_id, user, aud="blog"),
            token(visit_id, user, aud=["blog", "news"]),
            token(visit_id, user, iat=past, exp=past + 300),
            token(visit_id, user, exp=None),
            token(visit_id, user, exp=now_ms() // 1000 + 100 * 365 * DAY_S),
            token(str(uuid.uuid4()), user),
            token(visit_id, user, visitID=None),
            token(visit_id, f"{user}x"),
            token(visit_id, user, kid="k2"),
            jwt.encode({"sub": user, "aud": "shop", "visitID": visit_id}, "", algorithm="none"),
            f"{head}.{body}.",
            f"{head}.{body}.{signature[::-1]}",
            good[: chance.randint(0, len(good) - 1)],
        ]
    )


async def test_a_signed_sign_in_authenticates_and_the_token_is_kept_nowhere(signing_suite: Suite) -> None:
    visit_id = str(uuid.uuid4())
    signed = token(visit_id, "dana")
    async with signing_suite.http() as http:
        assert (await http.post("/beacon", json=sign_in(visit_id, "dana", signed))).status_code == 204
        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
        assert visitor["state"] == "AUTHENTICATED"
    signature = signed.rpartition(".")[2].encode()
    for file in signing_suite.data_dir.rglob("*"):
        if file.is_file():
            assert signature not in file.read_bytes(), file


@pytest.mark.long
async def test_a_thousand_bad_tokens_authenticate_nobody(signing_suite: Suite) -> None:
    chance = random.Random(2)  # noqa: S311 - repeatable, not secret
    visits = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(1_000)]
    async with signing_suite.http() as http:
        for start in range(0, len(visits), 100):
            batch = [sign_in(visit, "dana", bad_token(chance, visit, "dana")) for visit in visits[start : start + 100]]
            assert (await http.post("/beacon", json=batch)).status_code == 204
        for visit_id in visits:
            visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
            assert (visitor["state"], visitor["identityId"]) == ("RECOGNIZED", "dana")


async def test_a_token_used_again_for_another_visit_authenticates_nobody(signing_suite: Suite) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    signed = token(first, "dana")
    async with signing_suite.http() as http:
        for visit_id in (first, second):
            assert (await http.post("/beacon", json=sign_in(visit_id, "dana", signed))).status_code == 204
        state = (await http.get(f"/api/v1/visits/{second}/visitor")).json()["state"]
        assert state == "RECOGNIZED"


async def test_contacts_link_by_what_a_token_says_and_not_by_what_its_page_says(signing_suite: Suite) -> None:
    eve, visit_id = f"eve-{uuid.uuid4().hex}", str(uuid.uuid4())
    bobs, eves = f"{uuid.uuid4().hex}@mail.example", f"{uuid.uuid4().hex}@mail.example"
    async with signing_suite.http() as http:
        await put_contact(http, bobs)
        contact_id = await put_contact(http, eves)
        lies = sign_in(visit_id, eve, token(visit_id, eve), email=bobs, first="first")
        assert (await http.post("/beacon", json=lies)).status_code == 204
        identity = await identity_of(signing_suite, eve, "first")
        assert (identity.contact_id, json.loads(identity.profile_json)["email"]) == ("", bobs)

        told = token(visit_id, eve, email=eves, email_verified=True)
        assert (await http.post("/beacon", json=sign_in(visit_id, eve, told, email=bobs, second="second"))).is_success
        identity = await identity_of(signing_suite, eve, "second")
        assert json.loads(identity.profile_json)["email"] == eves

        async def is_linked() -> None:
            links = (await http.get(f"/api/v1/identities/{eve}/links")).json()["links"]
            made = [(link["contactId"], link["rule"], link["assurance"]) for link in links]
            assert made == [(contact_id, "EmailAddress", "proven")]
            assert [found["assurance"] for found in links[0]["evidence"]] == ["proven"]

        await eventually(is_linked, timeout=20)


async def test_what_a_stranger_says_displaces_nothing_that_a_person_has_proven(signing_suite: Suite) -> None:
    dana, visit_id, strange_id = f"dana-{uuid.uuid4().hex}", str(uuid.uuid4()), str(uuid.uuid4())
    proven = token(visit_id, dana, email="dana@mail.example", email_verified=True, phone_number="+49301234567")
    own = {"name": "Dana Lee", "location": "Berlin"}
    lies = own | {"email": "eve@mail.example", "phone": "+49307654321", "name": "Eve", "location": "Mars"}
    strange = event("UserInfo", strange_id, now_ms(), dana, site="shop", data=lies | {"last": "last"})
    async with signing_suite.http() as http:
        for one in (sign_in(visit_id, dana, proven, **own), strange):
            assert (await http.post("/beacon", json=one)).status_code == 204
        identity = await identity_of(signing_suite, dana, "last")
        assert json.loads(identity.profile_json) == own | {
            "userID": dana,
            "email": "dana@mail.example",
            "phone": "+49301234567",
            "last": "last",
        }
        assert identity.location == "Berlin"


async def test_a_token_used_before_a_sign_out_authenticates_nobody_after_it(signing_suite: Suite) -> None:
    visit_id, started = str(uuid.uuid4()), now_ms() - 1_000
    signed = token(visit_id, "dana")

    def at(number: int, name: str, given: str = "") -> Event:
        data = {"token": given} if given else {}
        return event(name, visit_id, started + number, "dana" if given else None, site="shop", data=data)

    async def send(*events: Event) -> str:
        async with signing_suite.http() as http:
            assert (await http.post("/beacon", json=[*events])).status_code == 204
            return str((await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()["state"])

    assert await send(at(1, "SignIn", signed)) == "AUTHENTICATED"
    assert await send(at(2, "SignIn", signed)) == "AUTHENTICATED"  # of another tab
    assert await send(at(4, "SignIn", signed)) == "AUTHENTICATED"
    assert await send(at(3, "SignOut")) == "RECOGNIZED"  # late
    assert await send(at(5, "SignIn", token(visit_id, "dana", jti="another"))) == "AUTHENTICATED"

    async def is_explained() -> None:
        async with signing_suite.http() as http:
            explained = await http.get(f"/api/v1/visits/{visit_id}/explain")
        assert explained.status_code == 200
        assert [(step["rule"], step["assurance"]) for step in explained.json()["transitions"]] == [
            ("sign_in.opens_session", "proven"),
            ("sign_in.same_identity", "proven"),
            ("sign_out.closes_session", None),
            ("sign_in.token_used_before", "claimed"),
            ("sign_in.opens_session", "proven"),
        ]

    await eventually(is_explained, timeout=20)


async def test_a_token_proves_no_sign_in_of_days_before_it_was_made(signing_suite: Suite) -> None:
    visit_id, now = str(uuid.uuid4()), now_ms()
    data = {"token": token(visit_id, "dana")}
    old = event("SignIn", visit_id, now - 6 * DAY_S * 1000, "dana", site="shop", data=data)
    async with signing_suite.http() as http:
        assert (await http.post("/beacon", json={"sentAt": now, "events": [old]})).status_code == 204
        assert (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()["state"] == "RECOGNIZED"


async def test_no_caller_makes_an_expired_token_valid_by_the_time_it_tells(signing_suite: Suite) -> None:
    visit_id, then = str(uuid.uuid4()), now_ms() - 3 * DAY_S * 1000
    expired = token(visit_id, "dana", iat=then // 1000, exp=then // 1000 + 300)
    one = message("SignIn", {"userID": "dana", "token": expired}, visit_id=visit_id, site="shop", timestamp_ms=then)
    sent = batch(one, contexts=[context(received_time_ms=then, sent_time_ms=then)])
    async with signing_suite.channel("collector") as channel, signing_suite.http() as http:
        answer = await CollectorServiceStub(channel).Collect(CollectRequest(batch=sent), timeout=10)
        assert answer.stored_count == 1
        assert (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()["state"] == "RECOGNIZED"
