"""How every process of the suite runs: settings, server, channels, errors, logs, metrics and the stream reader."""
