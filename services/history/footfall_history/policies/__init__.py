"""Trying identity policies on stored visits: the command `footfall-policy`, and trials for callers of the service.

`simulator` compares, `running` runs a trial in a process of its own, and `trials` starts such processes for callers.
"""

from footfall_history.policies.trials import PolicyTrials
