"""Erases a person from what history keeps, and searches the stores for what is left."""

from footfall_history.erasure.eraser import Eraser
from footfall_history.erasure.verify_command import run_verify_erasure

__all__ = [
    "Eraser",
    "run_verify_erasure",
]
