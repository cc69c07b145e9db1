"""Builds the wheels of a state of this repository, and installs them into environments of their own."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(sys.executable).parent


def build(sources: Path, folder: Path) -> None:
    """Put the wheel of every distribution of these sources into a folder."""
    found = [file.parent for parents in ("*", "services/*") for file in sources.glob(f"{parents}/pyproject.toml")]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, folder, *found], check=True)


def install(environment: Path, *requirements: str | Path) -> Path:
    """Make an environment with nothing in it but what `uv pip install` is given. Returns the folder of its commands."""
    uv = str(SCRIPTS / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", f"--python={environment}", *requirements], check=True)
    return environment / "bin"
