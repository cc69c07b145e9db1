"""A site that signs its sign-ins: without a valid token nobody becomes Authenticated, whatever the page says."""

import random
import uuid
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event, event, now_ms

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


def sign_in(visit_id: str, user: str, signed: Any) -> Event:
    data = {} if signed is None else {"token": signed}
    return event("SignIn", visit_id, now_ms(), user, site="shop", data=data)


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
