"""The original's History REST API."""
