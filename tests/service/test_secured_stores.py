"""Redis and MongoDB that ask for a password and speak TLS: the services work on them, and never show the password.

Valkey's binary here has no TLS: a gate before it speaks it.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from footfall_servicekit.tls import KeyPair, server_context
from pymongo import AsyncMongoClient

from deploy.certificates import Authority
from tests.tools.gate import gate_before
from tests.tools.process import Service, running_service
from tests.tools.stores import running_mongo, running_valkey

PASSWORD = "un/guess@ble#?%"


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """The settings that name them, with `PASSWORD` where the password belongs."""
    folder = tmp_path_factory.mktemp("stores")
    authority = Authority(folder / "tls")
    pair = KeyPair(*authority.issue("store"))
    with running_mongo(folder) as url:
        client: AsyncMongoClient[Any] = AsyncMongoClient(url)
        roles = [{"role": "readWrite", "db": "footfall"}]
        await client.admin.command("createUser", "footfall", pwd=PASSWORD, roles=roles)
        await client.close()
    mongo_tls = ["--auth", "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)]
    with running_valkey(folder, "--requirepass", PASSWORD) as redis_url, running_mongo(folder, *mongo_tls) as mongo_url:
        async with gate_before(redis_url, server_context(pair)) as gate:
            mongo = mongo_url.removeprefix("mongodb://")
            yield {
                "REDIS_URL": f"rediss://default:PASSWORD@127.0.0.1:{gate.port}?ssl_ca_certs={authority.file}",
                "MONGO_URL": f"mongodb://footfall:PASSWORD@{mongo}/?authSource=admin&tls=true&tlsCAFile={authority.file}",
                "ERASURE_KEY": "erasure key of the tests",
                "LOG_LEVEL": "debug",
            }


@pytest.mark.parametrize("service", ["collector", "identity", "history"])
async def test_a_service_works_on_them(service: Service, stores: dict[str, str], tmp_path: Path) -> None:
    settings = {name: value.replace("PASSWORD", quote(PASSWORD, safe="")) for name, value in stores.items()}
    async with running_service(service, tmp_path, **settings) as running:
        assert '"serving"' in running.output()
    assert shows_no_password(running.output(), PASSWORD)


async def test_with_a_wrong_password_it_ends_and_does_not_tell_it(stores: dict[str, str], tmp_path: Path) -> None:
    settings = {name: value.replace("PASSWORD", "wr%2Fong") for name, value in stores.items()}
    async with running_service("history", tmp_path, **settings) as running:
        assert '"serving"' not in running.output()
    assert shows_no_password(running.output(), "wr/ong")


def shows_no_password(output: str, password: str) -> bool:
    return bool(output) and password not in output and quote(password, safe="") not in output
