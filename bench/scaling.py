"""The tables of docs/ops/scaling.md: what an event and a visit cost, and what loads need by its formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Final

from bench.page import measured, table
from bench.report import Results, Rounds

LOADS: Final = (1_000, 100_000, 1_000_000)
"""Events a second."""
EVENTS_A_VISIT: Final = 37
"""Of beacons.lua: twelve pages of three events, and the start."""
BUSY: Final = 0.6
"""How busy a process may be and still answer quickly."""
RECENT_S: Final = 2 * 3_600
"""VISIT_IDLE_MINUTES and IDENTITY_ANONYMOUS_RETENTION_MINUTES."""
RETENTION_S: Final = 9 * 86_400
"""LIVE_RETENTION_DAYS, and the day more that a known visit may stay."""
SHARES_KNOWN: Final = (0.05, 0.5)
"""Of visits that sign in."""
UNREAD_S: Final = 300
"""How long history does not read the log."""
STORED_S: Final = 30 * 86_400
"""EVENT_RETENTION_DAYS."""
GB: Final = 10**9
PRIMARY_BYTES: Final = 64 * GB
SHARD_CORES: Final = 16


@dataclass(frozen=True)
class Costs:
    """CPU in microseconds an event, by the letters of the page, and bytes of Redis an event and a visit."""

    cpu_us: dict[str, float]
    log_bytes: float
    anonymous_bytes: float
    known_bytes: float

    @classmethod
    def of(cls, results: Results, rounds: Rounds) -> "Costs":
        """Return the costs with the beacons of these rounds."""
        path = {"G": "gateway", "C": "collector", "I": "identity", "R": "valkey"}
        cpu_us = {letter: median(cost.cpu_us[name] for cost in rounds.costs) for letter, name in path.items()}
        cpu_us |= {"H": results.ingest.cpu_us["history"], "M": results.ingest.cpu_us["mongo"]}
        memory = results.memory
        return cls(cpu_us, results.log_bytes, memory.anonymous_live, memory.known_later + memory.index)

    def replicas(self, letter: str, load: int, least: int = 1) -> int:
        """Return the processes of one core each that this load needs."""
        return max(least, ceil(load * self.cpu_us[letter] / 1e6 / BUSY))

    def live_state_bytes(self, load: int, share_known: float) -> float:
        """Return the memory of live state when so many of the visits sign in."""
        anonymous = (1 - share_known) * RECENT_S * self.anonymous_bytes
        return load / EVENTS_A_VISIT * (anonymous + share_known * RETENTION_S * self.known_bytes)


def text(results: Results) -> str:
    """The measured section, in Markdown."""
    one, ten = Costs.of(results, _rounds(results, 1, 512)), Costs.of(results, _rounds(results, 10, 64))
    heads = "|".join(("events a second (E)", *(f"{load:,}" for load in LOADS)))
    return "\n".join(
        [
            measured(results.seconds),
            "",
            *table("cost|one event a beacon|ten events a beacon", _costs(one, ten)),
            "",
            "Needs with ten events a beacon; in brackets with one event a beacon:",
            "",
            *table(heads, _needs(one, ten)),
        ]
    )


def _rounds(results: Results, events: int, connections: int) -> Rounds:
    """The first profile of this size."""
    wanted = events, connections
    return next(each for each in results.rounds if (each.profile.events, each.profile.connections) == wanted)


def _costs(one: Costs, ten: Costs) -> list[list[str]]:
    names = {
        "G": "gateway",
        "C": "collector",
        "I": "identity",
        "R": "Redis or Valkey",
        "H": "history, while it catches up with full batches",
        "M": "MongoDB-wire server of the embedded run, while history catches up",
    }
    sizes = {
        "L, bytes in Redis of an event in the log": ten.log_bytes,
        "A, bytes in Redis of a recent anonymous visit": ten.anonymous_bytes,
        "K, bytes in Redis of a known visit and its index": ten.known_bytes,
    }
    return [
        *(
            [f"{letter}, µs of CPU an event: {name}", f"{one.cpu_us[letter]:.0f}", f"{ten.cpu_us[letter]:.0f}"]
            for letter, name in names.items()
        ),
        *([name, f"{size:.0f}", f"{size:.0f}"] for name, size in sizes.items()),
    ]


def _needs(one: Costs, ten: Costs) -> list[list[str]]:
    def row(name: str, need: Callable[[int], str]) -> list[str]:
        return [name, *map(need, LOADS)]

    def with_both(letter: str, least: int) -> Callable[[int], str]:
        return lambda load: f"{ten.replicas(letter, load, least)} ({one.replicas(letter, load, least)})"

    def live_state(share: float) -> Callable[[int], str]:
        return lambda load: _size(ten.live_state_bytes(load, share))

    def primaries(share: float) -> Callable[[int], str]:
        return lambda load: str(ceil(ten.live_state_bytes(load, share) / PRIMARY_BYTES))

    return [
        row("gateway, replicas", with_both("G", 2)),
        row("collector, replicas", with_both("C", 2)),
        row("identity, replicas", with_both("I", 2)),
        row("history, replicas", lambda load: str(ten.replicas("H", load, 2))),
        row("Redis or Valkey, primaries by CPU", with_both("R", 1)),
        row("log in Redis after five minutes without history", lambda load: _size(load * UNREAD_S * ten.log_bytes)),
        *(row(f"live state, {share:.0%} of the visits sign in", live_state(share)) for share in SHARES_KNOWN),
        *(
            row(f"primaries by memory, 64 GB of live state in each, {share:.0%} sign in", primaries(share))
            for share in SHARES_KNOWN
        ),
        row("MongoDB, cores, at the cost of the embedded server", lambda load: str(ten.replicas("M", load))),
        row("MongoDB, shards of 16 such cores", lambda load: str(ceil(ten.replicas("M", load) / SHARD_CORES))),
        row("events in MongoDB at 30 days", lambda load: f"{load * STORED_S / 1e9:,.1f} billion"),
    ]


def _size(size: float) -> str:
    return f"{size / GB:,.1f} GB"
