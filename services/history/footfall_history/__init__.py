"""Keeps the stamped log of events, and answers what visitors did and who they were."""
