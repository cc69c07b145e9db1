"""The command `footfall-ops`: what an operator does with the stores of a whole deployment."""
