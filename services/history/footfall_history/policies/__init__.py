"""The command `footfall-policy`: checks an identity policy, and tries it on stored visits.

No other folder imports from it.
"""
