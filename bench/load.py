"""Load of the suite: runs wrk with a profile of traffic, and reads what wrk saw."""

import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

SCRIPT = Path(__file__).with_name("beacons.lua")
TIMEOUT_S = 10


@dataclass(frozen=True)
class Profile:
    """One kind of traffic. `events` a beacon; 0 means one to eight, as a tracker sends them.

    `identifies`: the first event of each beacon is a SignIn. Otherwise `sign_in_share` of the visits have one.
    """

    name: str
    events: int
    connections: int
    sign_in_share: float = 0.0
    identifies: bool = False


class Load(msgspec.Struct):
    """What wrk saw of a run. `failed` counts everything that is no 2xx; `cpu_s` is what wrk itself took."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def run(url: str, profile: Profile, seconds: int, *, pause_ms: float = 0, known_visits: int = 0) -> Load:
    """Send beacons for some seconds, each connection its next one when it has the answer and has paused.

    `known_visits`: the events belong to so many visits (see visitors.visit_id) instead of to new ones.
    """
    before = _children_cpu_s()
    command = ["wrk", "-t1", f"-c{profile.connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", f"-s{SCRIPT}", url]
    words = [profile.events, profile.sign_in_share, pause_ms, known_visits, int(profile.identifies)]
    output = subprocess.run(
        [*command, "--", *map(str, words)], capture_output=True, text=True, check=True, timeout=seconds + 2 * TIMEOUT_S
    ).stdout
    load = msgspec.json.decode(output.splitlines()[-1], type=Load)
    load.cpu_s = _children_cpu_s() - before
    return load


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
