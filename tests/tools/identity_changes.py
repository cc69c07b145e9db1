"""What becomes of identities when events name others than before, counted naively."""

from collections import defaultdict
from collections.abc import Iterable


def identity_changes(names: Iterable[tuple[str, str]]) -> tuple[tuple[int, int], dict[str, set[str]]]:
    """Return how many identities there were and are, and those of each kind of change.

    `names`: the identity that an event named before and the one that it names now; empty for none.
    """
    targets: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    for before, after in names:
        if before:
            targets[before] |= {after} - {""}
        if after:
            sources[after] |= {before} - {""}
    return (len(targets), len(sources)), {
        "merged": {name for name, of in sources.items() if len(of) > 1},
        "split": {name for name, into in targets.items() if len(into) > 1},
        "vanished": {name for name, into in targets.items() if not into},
        "new": {name for name, of in sources.items() if not of},
        "renamed": {
            name
            for name, into in targets.items()
            if len(into) == 1 and name not in sources and not into & {*targets} and sources[min(into)] == {name}
        },
    }
