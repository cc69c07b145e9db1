"""Dead letters: events that cannot be stored, kept in Redis with the reason until replayed, discarded or expired."""

from footfall_history.dead_letters.answers import list_dead_letters, repair_dead_letter, replay_dead_letters
from footfall_history.dead_letters.command import run_dead_letters
from footfall_history.dead_letters.documents import dead_letter_documents
from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue, DeadLettersFullError
