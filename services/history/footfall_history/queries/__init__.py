"""Answers about what is stored, as messages of the contract."""
