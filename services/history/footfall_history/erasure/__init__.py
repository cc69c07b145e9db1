"""Erasure of an identity from history, and the search of the stores for what remains of it."""

from footfall_history.erasure.eraser import Eraser
from footfall_history.erasure.verify_command import run_verify_erasure
