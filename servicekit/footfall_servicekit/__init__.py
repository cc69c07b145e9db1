"""How every process of the suite runs: settings, start and stop, server, channels, errors, logs and metrics."""
