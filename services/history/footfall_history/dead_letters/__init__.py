"""Events that cannot be stored: kept in Redis with the reason, until somebody repairs, replays or discards them."""

from footfall_history.dead_letters.command import run_dead_letters
from footfall_history.dead_letters.letters import DeadLetters, DeadLettersFullError
from footfall_history.dead_letters.stamped import stamped_letters

__all__ = ["DeadLetters", "DeadLettersFullError", "run_dead_letters", "stamped_letters"]
