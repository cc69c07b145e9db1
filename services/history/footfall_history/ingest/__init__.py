"""Takes events from the log, stamps them and stores each once; what takes long waits beside the log."""

from footfall_history.ingest.attribution import Effort, Stamper
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.ingest.slow_visits import SlowVisits

__all__ = ["Effort", "LogConsumer", "SlowVisits", "Stamper"]
