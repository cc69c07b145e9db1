"""Dead letters of outlets: delivered again by the command, by what is known of their events then."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec

from footfall_relay.outlets import open_sink
from footfall_relay.outlets_file import Outlet
from footfall_relay.positions import DeadLetter, Positions
from footfall_relay.stamping import Stamper

PER_STEP: Final = 100


class Replayed(NamedTuple):
    """What became of dead letters: of some nothing is stored any more."""

    delivered: int
    gone: int
    refused: list[DeadLetter]


async def replay(outlet: Outlet, positions: Positions, stamper: Stamper) -> AsyncIterator[Replayed]:
    """Deliver all dead letters of an outlet again, oldest first; those that are refused again stay.

    Stops after a step in which all were refused. Raises HistoryUnavailableError and TRANSIENT_ERRORS.
    """
    left = await positions.count_dead(outlet.name)
    while left > 0 and (letters := await positions.dead(outlet.name, min(left, PER_STEP))):
        messages = await stamper.again([letter.reference for letter in letters])
        sink = open_sink(outlet, 0)
        try:
            reasons = {one.message.reference: one.reason for one in await sink.put(messages)}
            await sink.flush()
        finally:
            await sink.close()
        refused = [letter for letter in letters if letter.reference in reasons]
        if refused:  # to the end, behind those that have not been tried; before they are removed, or a crash loses them
            again = [msgspec.structs.replace(one, reason=reasons[one.reference]) for one in refused]
            await positions.put_dead(outlet.name, again)
        await positions.remove_dead(outlet.name, letters)
        yield Replayed(len(messages) - len(refused), len(letters) - len(messages), refused)
        left -= len(letters)
        if len(refused) == len(messages) > 0:
            return
