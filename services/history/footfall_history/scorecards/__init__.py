"""Scorecards: how many visits of a site and day were identified, and what was wrong with their user ids.

`tally` counts visits (pure), `counting` does so for each day in the background, `listing` answers from what is stored.
"""

from footfall_history.scorecards.counting import ScorecardCounter, ScorecardLimits, day_of
from footfall_history.scorecards.listing import list_scorecards
