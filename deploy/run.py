"""`make run`: checks ports and folders, creates credentials, prints addresses, and runs supervisord."""

import argparse
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from deploy.demo_people import write_once_ready
from deploy.embedded import (
    DEFAULT_PORTS,
    Credentials,
    Refusal,
    data_folder,
    gateway_url,
    kept_keys,
    kept_secret,
    prepare,
    start_supervisord,
    suite_environment,
)

_SUPERVISORD_LINE: Final = re.compile(rb"[\d-]+ [\d:,]+ ([A-Z]{4}) ")


def read_credentials(data_dir: Path) -> tuple[Credentials, bool]:
    """The credentials, and whether they are new: from the environment, or from a file, which is created if missing.

    Raises:
        Refusal: only one of API_USER and API_PASSWORD is set, or the file does not contain `user:password`.

    """
    user, password = os.environ.get("API_USER", ""), os.environ.get("API_PASSWORD", "")
    if user and password:
        return Credentials(user, password), False
    if user or password:
        raise Refusal("Only one of API_USER and API_PASSWORD is set: set both, or neither.")
    file = data_dir / "credentials"
    text, is_new = kept_secret(file, f"footfall:{secrets.token_urlsafe(18)}")
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise Refusal(f"{file} must contain user:password; remove the file to get new credentials.")
    return Credentials(user, password), is_new


def read_ports() -> dict[str, int]:
    """The port of every program, from the environment or by default.

    Raises:
        Refusal: a value is not a port number, or ports are in use; the text names all of these.

    """
    ports, taken = {}, []
    with ExitStack() as held:  # until all are checked, so that a number given twice is found too
        for name, default in DEFAULT_PORTS.items():
            text = os.environ.get(name, str(default))
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
                raise Refusal(f"{name} must be a port number from 1 to 65535.")
            ports[name] = int(text)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", ports[name])))
            except OSError as error:
                taken.append(f"  {name}={ports[name]}: {error.strerror}")
    if taken:
        raise Refusal(
            "\n".join(["These ports cannot be used. Stop a suite that is already running, or set other ports:", *taken])
        )
    return ports


def announce(environment: Mapping[str, str], *, new_credentials: bool) -> None:
    """Print the addresses. A new password is shown once."""
    data_dir = Path(environment["DATA_DIR"])
    gateway = gateway_url(os.environ | environment)
    file = data_dir / "credentials"
    if os.environ.get("API_USER"):
        credentials, sign_in = "API_USER and API_PASSWORD of the environment", "$API_USER:$API_PASSWORD"
    else:
        credentials, sign_in = str(file), f"$(cat {shlex.quote(str(file))})"
    if new_credentials:
        credentials = f"{environment['API_USER']}:{environment['API_PASSWORD']} (new, stored in {file})"
    print(
        f"""Footfall is starting. Ctrl-C stops it. Its data stays in {data_dir}

  gateway      {gateway}   console: /console   demo shop: /demo   API: /docs
  gRPC         collector {environment["COLLECTOR_TARGET"]}, identity {environment["IDENTITY_TARGET"]}, \
history {environment["HISTORY_TARGET"]}
  stores       {environment["REDIS_URL"]}, {environment["MONGO_URL"]}
  credentials  {credentials}
  logs         {data_dir / "log"}

  curl -u "{sign_in}" {gateway}/server/data/identities
""",
        flush=True,
    )


def run_supervisord(environment: Mapping[str, str]) -> int:
    """Run the suite until it ends or a signal stops it. On return every program has ended.

    supervisord gets a session of its own and a pipe for its output. Otherwise, when the terminal closes, it would
    restart every program and then fail at its first line of output, with its programs still running.
    """
    process: subprocess.Popen[bytes] | None = None
    asked_to_stop = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        if process:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    process = start_supervisord(environment, subprocess.PIPE, in_new_session=True)
    if asked_to_stop:
        process.terminate()
    assert process.stdout  # noqa: S101 - for mypy: it is a pipe
    for line in process.stdout:
        level = _SUPERVISORD_LINE.match(line)
        if level and (level[1] == b"INFO" or (level[1] == b"WARN" and asked_to_stop)):  # the log file has them
            continue
        try:
            os.write(1, line)
        except OSError:  # the terminal is closed
            stop()
    return process.wait()


def main() -> int:
    """Run the embedded suite in the foreground."""
    epilog = "`make run` calls this. Ports, DATA_DIR and settings are environment variables."
    argparse.ArgumentParser(prog="python -m deploy.run", description=main.__doc__, epilog=epilog).parse_args()
    data_dir = data_folder()
    try:
        ports = read_ports()
        prepare(data_dir)
        credentials, new = read_credentials(data_dir)
        environment = suite_environment(data_dir, ports, credentials) | kept_keys(data_dir)
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    announce(environment, new_credentials=new)
    write_once_ready(gateway_url(os.environ | environment), credentials, data_dir)
    return run_supervisord(environment)


if __name__ == "__main__":
    sys.exit(main())
