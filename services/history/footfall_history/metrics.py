"""What history counts, with its meaning, in one place."""

from prometheus_client import Counter

EVENTS = Counter(
    "history_events_total",
    "Events read from the log, by what became of them: stored, duplicate (stored before, whether or not with the same "
    "content) or unstorable (put aside in the dead-letter stream). An entry that is read twice counts twice.",
    ["outcome"],
)
STORED = EVENTS.labels("stored")
DUPLICATE = EVENTS.labels("duplicate")
UNSTORABLE = EVENTS.labels("unstorable")
CONFLICTS = Counter("history_conflicts_total", "Duplicates that had other content than the event stored.")
RESTAMPED = Counter(
    "history_restamped_total", "Events stamped anew because the timeline of their visit had changed after all."
)
EXPIRED = Counter("history_expired_total", "Events removed because they were older than the retention time.")
