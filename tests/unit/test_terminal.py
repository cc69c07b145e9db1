"""The lines of programs that `make run` shows."""

import pytest

from deploy.terminal import shown


@pytest.mark.parametrize(
    ("line", "is_shown"),
    [
        ('{"event": "listening", "level": "info"}', False),
        ('{"event": "listening", "level": "debug"}', False),
        ('{"event": "collector is down", "level": "warning"}', True),
        ('{"event": "bug", "level": "error"}', True),
        ("Traceback (most recent call last):", True),
        ("The settings are wrong:", True),
        ("[1]", True),
        ("", False),
    ],
)
def test_warnings_and_lines_other_than_log_lines_are_shown(line: str, is_shown: bool) -> None:
    assert shown(line) is is_shown
