"""Events that cannot be stored: kept in Redis with the reason, until somebody repairs, replays or discards them."""

from footfall_history.dead_letters.command import run_dead_letters
from footfall_history.dead_letters.documents import stamped_letters
from footfall_history.dead_letters.queue import DeadLetters, DeadLettersFullError

__all__ = ["DeadLetters", "DeadLettersFullError", "run_dead_letters", "stamped_letters"]
