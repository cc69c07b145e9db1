"""The faults that `make chaos` tries one after the other."""

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from signal import Signals
from typing import Final

from tests.chaos import injections
from tests.chaos.injections import EventIds, Target
from tests.tools.suite import PROGRAMS, Program, Store

FREEZE_S: Final = 20.0
LASTS_S: Final = 5.0
# supervisord tries several times to start the store again.
DISK_FULL_S: Final = 6.0
QUICK_S: Final = 2.0
# Longer and shorter than the time between two checkpoints.
OLD_S: Final = 5.0
YOUNG_S: Final = 0.3


@dataclass(frozen=True)
class Fault:
    """One fault.

    - `name`: of the command line and the table.
    - `what`: a description for the table.
    - `inject`: see `injections`.
    - `seconds`: how long it lasts; 0 if it is over as soon as it has begun.
    - `ends`: programs that may end because of it.
    - `disk`: the store whose data must be on a small disk of its own.
    - `snapshot`: the store of which a snapshot is taken before, for the fault to restore.
    - `age_s`: the age of this snapshot when the fault begins.
    """

    name: str
    what: str
    inject: Callable[[Target], AbstractAsyncContextManager[EventIds]]
    seconds: float = LASTS_S
    ends: Collection[Program] = ()
    disk: Store | None = None
    snapshot: Store | None = None
    age_s: float = 0.0

    def lasts_s(self, *, is_quick: bool) -> float:
        """How long it lasts."""
        return min(self.seconds, QUICK_S) if is_quick else self.seconds


def _freeze(program: Program) -> Fault:
    return Fault(f"freeze-{program}", f"SIGSTOP of {program}", partial(injections.frozen, program), FREEZE_S)


def _end(verb: str, number: Signals, program: Program) -> Fault:
    injection = partial(injections.signalled, program, number)
    return Fault(f"{verb}-{program}", f"{number.name} of {program}", injection, seconds=0, ends=[program])


def _fill_disk(name: str, store: Store) -> Fault:
    injection, what = partial(injections.disk_full, store), f"the disk of {name} is full"
    return Fault(f"{name.lower()}-disk-full", what, injection, DISK_FULL_S, ends=[store], disk=store)


def _restore(name: str, program: str, store: Store, age_s: float) -> Fault:
    injection = partial(injections.restored, store)
    what = f"{program} restored from a snapshot {age_s:g} s old"
    return Fault(name, what, injection, seconds=1, ends=[store], snapshot=store, age_s=age_s)


FAULTS: Final = (
    *map(_freeze, PROGRAMS),
    *map(partial(_end, "kill", Signals.SIGKILL), PROGRAMS),
    *map(partial(_end, "terminate", Signals.SIGTERM), PROGRAMS),
    Fault("redis-out-of-memory", "Redis at `maxmemory`", injections.out_of_memory),
    Fault("redis-read-only", "Redis becomes a replica without a primary", injections.read_only),
    Fault("redis-clients-killed", "Redis disconnects all clients three times a second", injections.clients_killed),
    Fault("redis-password", "Redis gets a password that the services do not have", injections.password),
    Fault("redis-paused", "`CLIENT PAUSE`", injections.paused),
    Fault("redis-emptied", "`FLUSHALL`", injections.emptied, seconds=0),
    _restore("redis-restored", "Redis", "valkey", OLD_S),
    _restore("mongodb-restored", "MongoDB", "mongo", OLD_S),
    _restore("mongodb-restored-young", "MongoDB", "mongo", YOUNG_S),
    _fill_disk("Redis", "valkey"),
    _fill_disk("MongoDB", "mongo"),
)
"""The table."""
