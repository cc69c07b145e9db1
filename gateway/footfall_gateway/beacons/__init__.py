"""Events on their way from browsers to the collector."""
